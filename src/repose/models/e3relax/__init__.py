"""E3Relax: equivariant refinement of atoms and lattice nodes."""
