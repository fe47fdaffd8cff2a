"""The losses: forget objectives, retain terms, and the registry that both are in."""
