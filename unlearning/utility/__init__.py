"""What else a model lost: divergence from its base, perplexity, tasks with right answers."""
