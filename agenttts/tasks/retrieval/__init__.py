"""Retrieval and question answering, on texts and on knowledge graphs."""
