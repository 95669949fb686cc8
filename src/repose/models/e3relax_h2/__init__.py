"""E3Relax-H2: E3Relax with angular gates and mixing of lattice nodes."""
