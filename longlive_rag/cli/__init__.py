"""The command line. It is the top layer: nothing imports it."""
