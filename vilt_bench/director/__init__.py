"""Starts, paces and stops measuring processes, and sleeps while they measure; no torch."""
