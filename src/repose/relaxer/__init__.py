"""Relaxers: one interface for direct models, baselines and iterative potentials."""
