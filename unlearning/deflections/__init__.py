"""Phase 1: the model's own refusals of the prompts to forget."""
