"""Engines, samples and their store."""
