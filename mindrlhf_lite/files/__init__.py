"""Reading and writing files and messages, with errors that say what is wrong."""
