"""Atomic writes, checked JSON documents, and processes."""
