"""Labelling of candidate crystals with a calculator."""
