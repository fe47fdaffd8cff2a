"""Keeping unlearning narrow: ways to do it, what they keep where they were not trained, advice."""
