"""One model, examined before anything is measured: ``spillover doctor MODEL``."""
