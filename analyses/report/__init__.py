"""The page of a run: its figures, its tables and what they say in words."""
