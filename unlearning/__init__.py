"""How a model is changed, and how its behaviour is scored."""
