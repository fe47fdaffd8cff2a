"""``python -m experiments.site`` (``make docs``): the documentation site, in build/site/html.

``assemble`` copies the pages and the notebooks to build/site/source. ``commands``, ``methods`` and
``names`` write the pages that come from the code. Sphinx then builds these sources with
``docs/conf.py``; every warning is an error.
"""
