"""Profiles, schedulers and jobs: how trials are started and their ends judged."""
