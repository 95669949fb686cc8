"""Reading, writing and conversion of crystals."""
