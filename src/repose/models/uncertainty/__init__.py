"""Uncertainty of predictions: head, calibration, out-of-distribution detection."""
