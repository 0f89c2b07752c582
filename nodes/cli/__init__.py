"""The command line and job files."""
