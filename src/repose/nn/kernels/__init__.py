"""Fused and compiled variants of the operators in `repose.nn`."""
