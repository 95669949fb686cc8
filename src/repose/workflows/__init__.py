"""Relaxation as a step of workflows: jobflow (with atomate2) and quacc."""
