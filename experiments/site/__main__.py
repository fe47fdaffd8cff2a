"""Assemble the sources of the site, build it and check its links; a warning is an error."""

import os
import sys

from sphinx.cmd.build import main

from experiments.site.assemble import ROOT, assemble
from experiments.site.links import broken_links

SITE = ROOT / "build" / "site"


def build() -> int:
    """Exit status: 0 without warnings and broken links."""
    source, html = SITE / "source", SITE / "html"
    assemble(source)
    # The gallery's kernel draws rows of the experiments, which are not installed.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    options = ["-W", "--keep-going", "-q", "-j", "2", "-c", str(ROOT / "docs")]
    status = main([*options, "-d", str(SITE / "doctrees"), str(source), str(html), *sys.argv[1:]])
    if status:
        print("the site has warnings (above)")
        return status
    if broken := broken_links(html):
        print("broken links:", *broken, sep="\n  ")
        return 1
    print(html / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(build())
