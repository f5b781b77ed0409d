"""Embeddings, search, pages and the rule by which a take remembers itself."""
