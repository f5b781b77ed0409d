"""The causal transformer, its cache and positions, the streaming VAE, text encoding and checkpoints."""
