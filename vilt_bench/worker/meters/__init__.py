"""Meters: one file a quantity; each takes its clock or its counter as an argument."""
