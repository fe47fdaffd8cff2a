"""The class of our figures: a notebook shows one, and another process can save one."""

from __future__ import annotations

import re
from io import BytesIO, StringIO

from matplotlib.figure import Figure

from interp.figures.settings import figure_style

PICTURE_DPI, PICTURE_COLOURS = 80, 64  # of a figure in a notebook, next to the vector graphics


class NotebookFigure(Figure):
    """A figure that a notebook shows as vector graphics, with a picture for sites without them."""

    def _repr_svg_(self) -> str:
        drawn = StringIO()
        with figure_style():
            self.savefig(drawn, format="svg", metadata={"Date": None})
        # A notebook holds all of it: coordinates to a hundredth of a point, one line.
        short = re.sub(r"(?<![\d.])([1-9]\d*\.\d\d)\d+", r"\1", drawn.getvalue())
        return re.sub(r"\s+", " ", re.sub(r">\s+<", "><", short))

    def _repr_png_(self) -> bytes:
        from PIL import Image

        drawn, small = BytesIO(), BytesIO()
        with figure_style():
            self.savefig(drawn, format="png", dpi=PICTURE_DPI)
        few_colours = Image.open(drawn).convert("RGB").quantize(PICTURE_COLOURS)
        few_colours.save(small, format="png", optimize=True)
        return small.getvalue()
