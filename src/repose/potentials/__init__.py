"""Energies, forces and stresses of batches of crystals: CHGNet, and any ASE calculator."""
