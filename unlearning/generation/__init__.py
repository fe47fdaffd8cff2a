"""The model's own responses, generated once and kept on disk."""
