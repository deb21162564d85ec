"""Histories as text and pictures."""
