"""Errors of relaxers: metrics, tables, plots."""
