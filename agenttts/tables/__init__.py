"""Schemas of the result tables, and aggregations of them."""
