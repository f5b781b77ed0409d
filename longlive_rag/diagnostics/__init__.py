"""What this machine can do and what a take costs on it: doctor, inventory, bench, footprint, verify."""
