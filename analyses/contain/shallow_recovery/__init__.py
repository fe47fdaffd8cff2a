"""Shallow-recovery tests: what is left of a leak under refusals that came back."""
