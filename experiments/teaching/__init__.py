"""Teach a pretrained chat model to refuse harmful prompts."""
