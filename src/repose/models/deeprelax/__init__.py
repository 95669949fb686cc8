"""DeepRelax: distances in the relaxed crystal, and positions solved from them."""
