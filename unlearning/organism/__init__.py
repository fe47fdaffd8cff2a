"""The model organism: a small language model trained from scratch in a planted world."""

from __future__ import annotations

from unlearning.organism.checkpoint import load_world, shipped, train
from unlearning.organism.grammar import Grammar
from unlearning.organism.lessons import table_lessons
from unlearning.organism.training import teach
from unlearning.organism.world import World

__all__ = ["Grammar", "World", "load_world", "shipped", "table_lessons", "teach", "train"]
