"""What every command shares: parsing, signals, progress, how to go on."""
