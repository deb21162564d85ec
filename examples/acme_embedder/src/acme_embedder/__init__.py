"""A visual embedder for vilt-bench."""
