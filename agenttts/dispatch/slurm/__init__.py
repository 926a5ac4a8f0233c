"""Slurm: requests, batch files, submission, and the answers of its commands."""
