"""The language model that a run serves for its own search."""
