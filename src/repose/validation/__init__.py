"""Energies and remaining steps of predictions under a calculator: rows, tables, plots."""
