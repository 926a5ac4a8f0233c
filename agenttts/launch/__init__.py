"""Plan, creation, resumption and cancellation of runs."""
