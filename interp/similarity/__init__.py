"""Compare directions, subspaces and whole representations, within a model and before and after."""
