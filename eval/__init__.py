"""Measuring takes: identity drift and its companions. Empty until the evaluator comes; takes are measured by `longlive_rag.tinyworld.evaluate` until then."""
