"""Weights on their way in: fetched from a hub, converted into pipeline folders, loaded."""
