"""Djinn's API specification: the overlay (one file a family) and its generator."""
