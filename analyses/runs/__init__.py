"""A run's folder and what is computed from it: tables, leakage, recovery, behaviour, rotations."""
