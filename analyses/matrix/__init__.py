"""Every domain unlearned in turn: the leakage matrix of one model or of several."""
