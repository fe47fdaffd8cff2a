"""One study: its plan, its base model, its arms, its workers, what it will cost."""
