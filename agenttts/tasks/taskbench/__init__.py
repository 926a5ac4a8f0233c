"""Task automation: decompose, select tools, fill parameters."""
