"""Prompts: the table, its splits, the built-in matched pairs, and public benchmarks."""
