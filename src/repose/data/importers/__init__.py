"""Importers of pairs and relaxation paths from the formats of the field."""
