"""How good a relaxer is: metrics, tables, plots."""
