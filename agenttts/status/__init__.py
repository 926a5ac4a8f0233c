"""The state of runs."""
