"""Engines: what makes takes for a server, on workers that each have a device of their own."""
