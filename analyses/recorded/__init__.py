"""Responses that exist already: score them, compare scorers with labels, calibrate a classifier."""
