"""Energies, forces and stresses of batches of crystals: CHGNet, SevenNet, and any ASE calculator."""
