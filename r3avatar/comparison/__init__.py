"""Runs side by side: tables, curves, pictures."""
