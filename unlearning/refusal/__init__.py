"""Refusal read from one forward: the log-odds that a response begins with a refusal prefix."""
