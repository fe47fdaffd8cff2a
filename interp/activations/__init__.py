"""Collect activations: layers, sites and positions to read, and where the states are kept."""
