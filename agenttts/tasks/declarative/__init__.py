"""Tasks described in a YAML file."""
