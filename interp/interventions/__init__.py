"""Edit states or weights of a running model: ablate, add, clamp, orthogonalise; the logit lens."""
