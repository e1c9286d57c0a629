"""The models of a run, built from the table of roles (config/roles.py)."""
