"""Weights: fetched from a hub, converted to pipeline folders, and loaded."""
