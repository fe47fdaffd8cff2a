"""Self-contained result pages: one file that fetches nothing and escapes all outside text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interp.store import write_text


def write_page(path: Path, template: str, view: Mapping[str, Any]) -> Path:
    """Write the page that :func:`rendered` makes; return ``path``."""
    write_text(path, rendered(template, view))
    return path


def rendered(template: str, view: Mapping[str, Any]) -> str:
    """Render a template of this package (such as ``report/report.html.jinja``) with ``view``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("analyses", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(view)


def inlined(folder: Path, names: Iterable[str], *, within: str = "figures") -> dict[str, str]:
    """The SVGs ``folder/figures/NAME.svg`` (or in the subfolder ``within``) as data URIs, by name.

    Data URIs keep the ids of one SVG separate from those of another.
    """
    found = {}
    for name in names:
        content = (folder / within / f"{name}.svg").read_bytes()
        found[name] = "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii")
    return found
