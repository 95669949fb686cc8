"""Candidate crystals: elements substituted into prototypes and into relaxed crystals."""
