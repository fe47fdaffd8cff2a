"""How a model represents things: read, fit, compare, intervene.

Texts, labels, models and readouts go in; arrays and directions come out. This package knows
nothing of refusals, domains, training or files of prompts, and imports neither ``unlearning``
nor ``analyses``.
"""
