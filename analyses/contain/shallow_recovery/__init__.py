"""Shallow-recovery tests: whether recovered refusals only mask a remaining loss."""
