"""How many GPUs a model takes."""
