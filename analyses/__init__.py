"""Experiments: put ``interp`` and ``unlearning`` together, keep runs, draw, report."""
