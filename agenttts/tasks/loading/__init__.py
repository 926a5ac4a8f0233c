"""Reading data files: JSON, JSON lines, CSV, TSV and Parquet as records, and what became of the
bad ones.
"""
