"""Coverage of every interval and error rate of every test, by simulation with known truths."""
