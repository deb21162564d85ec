"""Records in, judgement out; no torch."""
