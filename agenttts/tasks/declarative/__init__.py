"""Tasks that are described in a YAML file."""
