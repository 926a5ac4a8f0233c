"""The job on the node: checks, limits, scratch directory, compile cache."""
