"""Model families, one file each, and the interface they share."""
