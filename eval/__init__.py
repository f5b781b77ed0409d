"""Measuring takes: identity drift and its companions.

Empty until the evaluator comes; `longlive_rag.tinyworld.evaluate` measures takes of tiny-world until then.
"""
