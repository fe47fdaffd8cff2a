"""Sphinx's settings; the sources are those that ``experiments.site.assemble`` writes."""

import tomllib
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

project = "Spillover"
author = "Spillover contributors"
copyright = "Spillover contributors, Apache-2.0"
pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
version = release = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"
highlight_language = "text"
smartquotes = False  # they change the two dashes of an option

# Pages: committed outputs of notebooks are shown; only the gallery runs (its own setting).
nb_execution_mode = "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_in_temp = True  # the gallery writes into folders
nb_output_stderr = "remove"  # progress
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# Python names
autodoc_typehints_format = "short"
# A type of a signature may have several pages: the front door, its room, its module.
suppress_warnings = ["ref.python"]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them
napoleon_custom_sections = ["Source"]

html_math_renderer = "mathml"  # browsers draw it without a script from the network
html_theme = "furo"
html_title = f"Spillover {version}"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False


def inline_math(self, node):
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display_math(self, node):
    self.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
