"""Run the checks on every family, and write the tables of ``docs/reference/models.md``."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from experiments.architectures.checks import CHECKS, LIMIT, NOT_OFFERED, Subject
from experiments.architectures.tiny import families, save_tiny_model
from interp.errors import SpilloverError
from interp.store import write_text

SOURCE = Path("docs/reference/architectures.csv")
COLUMNS = ("family", "check", "result", "detail")
OK, REFUSED, WRONG, CRASH = "ok", "refused", "wrong", "crash"
RESULTS = (OK, REFUSED, WRONG, CRASH)
BETWEEN = " · "  # lines of a self-check
# Prompts of the packaged model organism's vocabulary have lengths that differ once they are joined.
JOINED = (1, 4, 2, 1, 3)
BEGUN = 4


def measure_families(
    chosen: Sequence[str] = (),
    *,
    checks: Sequence[str] = tuple(CHECKS),
    progress: Callable[[str], object] = print,
) -> pd.DataFrame:
    """One row per family and check.

    Args:
        chosen: model types; all of transformers by default.
        checks: titles of the checks to run.
        progress: called with a line for each family.

    Returns:
        Columns ``family``, ``check``, ``result`` (ok, refused, wrong or crash) and ``detail``: the
        relative error, what was found, or the words of the refusal. The check ``load`` holds the
        self-check in words. Families that cannot be made small are left out.
    """
    rows: list[dict[str, str]] = []
    for family in chosen or tuple(families()):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                save_tiny_model(family, Path(folder))
            except Exception as error:  # whatever a family's code raises
                progress(f"{family}: left out ({type(error).__name__}: {str(error)[:100]})")
                continue
            found = _measured(Subject(Path(folder), *_prompts()), checks)
        rows += [{"family": family, **one} for one in found]
        shown = ", ".join(f"{one['check']} {one['result']}" for one in found if one["result"] != OK)
        progress(f"{family}: {shown or 'all is well'}")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def measure_into(
    out: Path,
    chosen: Sequence[str] = (),
    *,
    resume: bool = False,
    measure: Callable[[Sequence[str]], pd.DataFrame] = measure_families,
) -> pd.DataFrame:
    """Measure families one after the other; the file has every finished one.

    Args:
        out: CSV file of the results, sorted by family.
        chosen: model types; all of transformers by default.
        resume: keep the families that the file already has, else begin with an empty one.
        measure: gives the rows of some families.
    """
    found = read_table(out) if resume and out.exists() else pd.DataFrame(columns=list(COLUMNS))
    known = set(found["family"])
    for family in chosen or tuple(families()):
        if family not in known:
            found = pd.concat([found, measure([family])], ignore_index=True)
            found = found.sort_values("family", kind="stable", ignore_index=True)
            write_text(out, found.to_csv(index=False))
    return found


def read_table(file: Path) -> pd.DataFrame:
    """The results of a CSV file; what is empty is an empty text."""
    return pd.read_csv(file, keep_default_na=False)


def _measured(subject: Subject, checks: Sequence[str]) -> list[dict[str, str]]:
    """The rows of one model."""
    loaded = _result(lambda _: BETWEEN.join(subject.lm.checked.lines()), subject)
    found = {"load": loaded}
    if loaded[0] == OK:
        found |= {name: _result(CHECKS[name], subject) for name in checks}
    return [
        {"check": name, "result": result, "detail": detail}
        for name, (result, detail) in found.items()
    ]


def _prompts() -> tuple[tuple[str, ...], str]:
    """Prompts of different lengths, and a text with which more of them begin."""
    from unlearning.organism import load_world, shipped

    texts = iter(load_world(shipped()).prompts()["prompt"])
    prompts = tuple(" ".join(next(texts) for _ in range(count)) for count in JOINED)
    return prompts, " ".join(next(texts) for _ in range(BEGUN))


def _result(one: Callable[[Subject], float | str], subject: Subject) -> tuple[str, str]:
    try:
        found = one(subject)
    except SpilloverError as error:
        # The checkpoint lies in a folder of a random name.
        return REFUSED, str(error).replace(subject.folder.name, "the model")
    except Exception as error:  # what this table is to show
        return CRASH, f"{type(error).__name__}: {error}"
    if isinstance(found, str):
        return OK, found
    return (OK if found <= LIMIT else WRONG), f"{found:.1e}"


def page_of(table: pd.DataFrame) -> str:
    """The tables of the page, in Markdown."""
    count = table["family"].nunique()
    grid = table.pivot(index="family", columns="check", values="result")
    checks = [name for name in CHECKS if name in grid]
    whole = _refused_whole(grid[checks])
    partly = (grid[checks] == REFUSED).any(axis=1) & ~grid.index.isin(whole)
    lines = [
        f"{count} families: {count - len(whole) - int(partly.sum())} ok in every check, "
        f"{int(partly.sum())} refused in some, {len(whole)} refused in all that read the layers"
        f"{': ' * bool(whole) + ', '.join(whole)}.",
        "",
        f"| Check | {' | '.join(RESULTS)} |",
        f"|---|{'---:|' * len(RESULTS)}",
    ]
    for name in ["load", *checks]:
        of_check = table[table["check"] == name]
        counts = of_check["result"].value_counts()
        shown = " | ".join(str(counts.get(result, 0)) for result in RESULTS)
        absent = int((of_check["detail"] == NOT_OFFERED).sum())
        title = f"{name} ({NOT_OFFERED} by {absent})" if absent else name
        lines.append(f"| {title} | {shown} |")
    return "\n".join([*lines, "", *_kinds(table)])


def _refused_whole(grid: pd.DataFrame) -> list[str]:
    """Families of which nothing that reads or trains the layers works."""
    inside = grid.drop(columns=["answers", "prefixes"], errors="ignore")
    refused = ((inside == REFUSED) | inside.isna()).all(axis=1)
    return list(grid.index[refused])


def _kinds(table: pd.DataFrame) -> list[str]:
    """Families by what their self-check found."""
    said = table[(table["check"] == "load") & (table["detail"] != "")]
    kinds: dict[str, list[str]] = {}
    for family, detail in zip(said["family"], said["detail"], strict=True):
        for line in str(detail).split(BETWEEN):
            kind = re.split(r"[:(]| by [\d.]+%", line)[0].strip()
            kinds.setdefault(kind, []).append(family)
    rows = [f"| {kind} | {', '.join(names)} |" for kind, names in sorted(kinds.items())]
    return ["| The self-check finds | Families |", "|---|---|", *rows]
