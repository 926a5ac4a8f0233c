"""Schemas of tables, and their aggregation."""
