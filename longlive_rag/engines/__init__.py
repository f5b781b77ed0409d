"""Engines make takes for a server, on workers that have a device each."""
