"""Software development: code, review, test."""
