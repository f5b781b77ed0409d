"""Known backbones as data, the presets of pipeline folders, and what they need of a machine."""
