"""Checks of a machine, a profile and its nodes."""
