"""Backends that use other libraries instead of plain torch hooks, with the same results.

Each is a backend for :func:`interp.activations.collection.collect`. The library is imported when
the backend is opened.
"""
