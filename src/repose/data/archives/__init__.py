"""Public archives of unrelaxed/relaxed pairs: the registry, downloads and unpacking."""
