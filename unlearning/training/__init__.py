"""Phase 2: the training loop, its settings, batches, checkpoints and forgetting level."""
