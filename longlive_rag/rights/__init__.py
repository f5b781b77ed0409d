"""Under which terms weights are, what those terms allow, and the record of it that goes wherever the output goes."""
