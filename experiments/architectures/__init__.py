"""Which model families work: every check of the page on a tiny random model of each family."""
