"""The terms of weights, what they allow, and the record of both that accompanies every output."""
