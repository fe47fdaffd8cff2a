"""Mushtaq et al. 2025 as a preset: its protocol, its published numbers, and ours beside them."""
