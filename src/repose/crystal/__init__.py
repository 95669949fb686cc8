"""Crystals as arrays: batches, lattices, neighbours, symmetry, elements."""
