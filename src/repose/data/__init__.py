"""Datasets of unrelaxed/relaxed pairs and whole relaxation paths."""
