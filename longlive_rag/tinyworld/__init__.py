"""The drawn world: its grammar and drawing, its oracle, and the training of its backbone."""
