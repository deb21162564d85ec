"""Pictures in the style of the paper's figures."""
