"""Searches on recorded tables."""
