"""A run on disk: directory, journal, starts of its controller."""
