"""Retrieval policies, a file each: which past frames a block remembers. A policy is a function of a `Past`, no more.

They are registered under the entry point group `longlive_rag.policies`, as anybody's are; a request names one
(`--policy`). What enters memory at all is decided before, by its gate (`retrieval.policy.FirstShowings`).
"""

from retrieval.policies.past import Past, Policy, PolicyError, looks_ahead, picked

__all__ = ["Past", "Policy", "PolicyError", "looks_ahead", "picked"]
