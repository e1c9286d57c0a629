"""main.py: the command line, the plan, and the process of a rank."""
