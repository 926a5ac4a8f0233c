"""Read data files (JSON, JSON lines, CSV, TSV and Parquet) as records.

The package also reports the records that could not be used.
"""
