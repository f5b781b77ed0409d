"""Generation of blocks: the block loop, changes between blocks, noise, and timing."""
