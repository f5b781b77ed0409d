"""How blocks come about: the block loop, what changes at a block, noise, and the time it takes."""
