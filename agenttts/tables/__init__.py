"""Schemas of the result tables, aggregations of them, and cells of other tables."""
