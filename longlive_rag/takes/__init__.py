"""Takes on disk: folder, record, writing, resuming, and exports."""
