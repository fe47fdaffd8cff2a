"""Other libraries in the place of plain torch hooks: the same numbers from their machinery.

Each is a backend for :func:`interp.activations.collection.collect`; the libraries are imported when
a backend is opened.
"""
