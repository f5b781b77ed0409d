"""Known backbones as data, the presets of pipeline folders, their sizes and needs."""
