"""Intervals, nulls and noise: what any comparison of directions rests on."""
