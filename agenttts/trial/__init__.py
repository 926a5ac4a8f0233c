"""One trial: an allocation on the examples."""
