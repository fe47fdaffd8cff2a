"""The model organism: a small language model trained from scratch in a planted world."""

from __future__ import annotations

from unlearning.organism.checkpoint import load_world, shipped, train

__all__ = ["load_world", "shipped", "train"]
