"""Experiments that remake tables of the docs; not part of the installed package."""
