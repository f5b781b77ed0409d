"""A take on disk: its folder and record, writing it, resuming it, and what can be made of it."""
