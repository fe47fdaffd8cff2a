"""Tables of prompts: their sources and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.options import known_model
from interp.errors import InputError


def prompts(source: str | Path | pd.DataFrame | Sequence[str] | None = None) -> pd.DataFrame:
    """A table of prompts, checked and completed.

    Args:
        source: one of

            * nothing: the 840 matched pairs and 160 everyday prompts of the package;
            * ``"organism"``, or the folder of a model organism: prompts in its own language;
            * a JSONL, CSV or parquet file, or a DataFrame, with the columns ``prompt``, ``domain``
              (one of ``sp.DOMAINS``, or ``general``) and ``label`` (``harmful`` or ``benign``);
            * the name of a public benchmark (``"xstest"``), which is fetched from the hub;
              ``"NAME=FILE"`` reads its rows from a file;
            * a list of such names; a prompt in several of them is kept once.

    Returns:
        One row per prompt with the columns ``id, prompt, domain, label, source, split, kind`` and
        all other columns of the source; a harmful prompt and its matched benign prompt
        have the same ``pair``. If a row has no split, a hash of its text assigns ``train``,
        ``validation`` or ``test``; near-duplicates and pairs stay together.

    Raises:
        InputError: the file or benchmark does not exist, or a row is invalid; the error names the
        row.

    Example:
        >>> table = sp.prompts()
        >>> table.groupby("label").size().to_dict()
        {'benign': 1000, 'harmful': 840}
        >>> mine = sp.prompts(table[["prompt", "domain", "label"]])
        >>> sorted(mine["split"].unique())
        ['test', 'train', 'validation']
    """
    from analyses.study import defaults_for
    from unlearning.data import as_prompts, matched_pairs, read_prompts
    from unlearning.data.records import SUFFIXES
    from unlearning.organism import load_world

    if source is None:
        return matched_pairs()
    if isinstance(source, pd.DataFrame):
        return as_prompts(source, required_labels=())
    if not isinstance(source, str | Path):
        return _of_benchmarks(list(source))
    if own := defaults_for(known_model(str(source))).organism:
        return load_world(own).prompts()
    if Path(source).suffix in SUFFIXES and "=" not in str(source):
        return read_prompts(source, required_labels=())
    return _of_benchmarks([str(source)])


def _of_benchmarks(names: Sequence[str]) -> pd.DataFrame:
    from unlearning.data import as_prompts
    from unlearning.data.sources import combined, deduplicated, load_named

    if not names:
        raise InputError("an empty list of benchmarks; name one, for instance xstest")
    found = deduplicated(combined([load_named(name) for name in names]).prompts).prompts
    name = " and ".join(names)
    return as_prompts(found.reset_index(drop=True), name, required_labels=())


def texts_of(prompts: pd.DataFrame | Sequence[str]) -> list[str]:
    """The texts of a table of prompts, or of a list of them, in order.

    Raises:
        InputError: a table without a column ``prompt``, or one text where a list is expected.
    """
    if isinstance(prompts, str):
        raise InputError(f"expected a list of texts, found a single text; give [{prompts[:40]!r}]")
    if not isinstance(prompts, pd.DataFrame):
        return list(prompts)
    if "prompt" not in prompts:
        raise InputError(
            f'the table has no column "prompt"; it has {", ".join(map(str, prompts.columns))}'
        )
    return list(prompts["prompt"])
