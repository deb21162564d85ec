"""What is asked: cases, embedders by name, presets, photographs; no torch."""
