"""A take on disk: its folder and record, writing it, going on with it, and what can be made of it."""
