"""RelaxNet: whole relaxation paths by integrating learned forces."""
