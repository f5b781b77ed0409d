"""Embeddings, search, the page cache and the policies by which a take remembers itself."""
