"""Retrieval policies, one per file: which past frames a block remembers. A policy is just a function of a `Past`.

They are registered in the entry point group `longlive_rag.policies`, like those of other packages; a request names one
(`--policy`). What enters memory at all is decided earlier, by its gate (`retrieval.policy.FirstShowings`).
"""

from retrieval.policies.past import Past, Policy, PolicyError, looks_ahead, picked

__all__ = ["Past", "Policy", "PolicyError", "looks_ahead", "picked"]
