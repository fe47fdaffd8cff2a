"""Self-contained result pages: one file that fetches nothing and escapes all outside text.

The page of a run has a script. Its content security policy allows that script alone, by its hash,
and no connection.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from analyses.report.data import as_json_text
from interp.store import write_text

HERE = Path(__file__).parent
PLOTLY = HERE / "vendor" / "plotly-cartesian.min.js"
SCRIPTS = ("page", "theme", "heatmap", "pair", "prompts", "main")


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
    return {name: data_uri((folder / within / f"{name}.svg").read_bytes()) for name in names}


def data_uri(svg: bytes) -> str:
    """An SVG as an address that a page can hold."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def scripted(data: Any) -> dict[str, Any]:
    """The script of a run's page: its ``texts``, their ``sources`` for the policy, its ``data``."""
    from markupsafe import Markup

    own = "\n".join((HERE / "script" / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    texts = [PLOTLY.read_text("utf-8"), f'"use strict";\n{{\n{own}}}\n']
    hashes = [hashlib.sha256(text.encode("utf-8")).digest() for text in texts]
    sources = " ".join(f"'sha256-{base64.b64encode(found).decode('ascii')}'" for found in hashes)
    return {
        "texts": [Markup(text) for text in texts],
        "sources": Markup(sources),
        "data": Markup(as_json_text(data)),
    }
