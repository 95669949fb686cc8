"""Generation of candidates: prototypes and relaxed crystals with other elements, sheets and defects."""
