"""The paper's analysis as tables and pictures."""
