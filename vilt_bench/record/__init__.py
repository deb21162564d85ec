"""A run and its file."""
