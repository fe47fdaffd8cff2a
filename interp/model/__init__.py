"""A causal language model with its tokenizer and chat format, and hooks on its layers."""
