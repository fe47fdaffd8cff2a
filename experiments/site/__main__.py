"""Assemble the sources of the site and build it; a warning is an error."""

import sys

from sphinx.cmd.build import main

from experiments.site.assemble import ROOT, assemble

SITE = ROOT / "build" / "site"


def build() -> int:
    """Sphinx's exit status."""
    source, html = SITE / "source", SITE / "html"
    assemble(source)
    options = ["-W", "--keep-going", "-q", "-j", "2", "-c", str(ROOT / "docs")]
    status = main([*options, "-d", str(SITE / "doctrees"), str(source), str(html), *sys.argv[1:]])
    print(f"{html / 'index.html'}" if not status else "the site has warnings (above)")
    return status


if __name__ == "__main__":
    sys.exit(build())
