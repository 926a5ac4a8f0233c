"""``init``: a first spec, task and profile, from a data file and this machine."""
