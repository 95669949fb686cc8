"""Published models: one JSON file for each paper and dataset, with its settings and its results."""
