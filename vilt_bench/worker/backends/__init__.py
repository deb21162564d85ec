"""Who computes a stage: one file a backend."""
