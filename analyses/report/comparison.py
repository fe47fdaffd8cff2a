"""Two runs of the same base model on the same prompts, side by side on one page.

The runs may differ in objective, retain set or seed. Differences are paired: the leakage of both
runs is resampled over the same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from analyses.figures import domain_label, figure_style, overview_figure, shown_quantity, title_of
from analyses.report.data import explorable, merged_prompts
from analyses.report.page import data_uri, rendered, scripted
from analyses.report.run_report import csv_text, overview_caption, verdict_views
from analyses.report.wording import interval
from analyses.runs import BASE, Arm, Run, headlines
from interp.errors import InputError
from interp.statistics import Estimate
from interp.store import package_version, read_json, read_table, write_text

SAME_PROMPTS = ["id", "prompt", "domain", "label", "split"]

View = dict[str, Any]


def write_comparison(
    folder: str | Path, other: str | Path, *, show_completions: bool = False
) -> Path:
    """Write ``compared-with-OTHER.html`` into ``folder``; the folder ``other`` is only read.

    Raises:
        InputError: a folder holds no run, or the runs have different base models, chat formats,
            readouts, prompts or scorers.
    """
    runs = Run(folder), Run(other)
    require_comparable(*runs)
    path = Path(folder) / f"compared-with-{Path(other).resolve().name}.html"
    write_text(path, render_comparison(*runs, show_completions=show_completions))
    return path


def require_comparable(run: Run, other: Run) -> None:
    """Check that two runs measure changes of one model on one set of prompts.

    Raises:
        InputError: different base models, chat formats, readouts, prompts or scorers.
    """
    places = f"{run.record.folder} and {other.record.folder}"
    if _base(run) != _base(other):
        raise InputError(
            f"{places} start from different base models ({_name(run)}, {_name(other)}); "
            "--compare needs two runs of the same model"
        )
    if run.record.config.get("scorer") != other.record.config.get("scorer"):
        scorers = ", ".join(str(one.record.config.get("scorer")) for one in (run, other))
        raise InputError(
            f"{places} score answers differently ({scorers}); run one again with --scorer"
        )
    if not _agree(*(one.record.config.get("chat") or {} for one in (run, other))):
        raise InputError(
            f"{places} ask in different chat formats; run one again with the --system, "
            "--chat-template and --response-prefix of the other"
        )
    if not _agree(_readout(run), _readout(other)):
        raise InputError(
            f"{places} have different refusal prefixes or compliance prefixes; run one again with "
            "the options of the other"
        )
    first, second = (_prompts(one) for one in (run, other))
    if not first.equals(second):
        raise InputError(
            f"{places} use different prompts ({len(first)} and {len(second)} rows, "
            f"{len(first.merge(second))} in common); --compare needs the same --prompts and splits"
        )


def _base(run: Run) -> object:
    """The hash of the base model's weights; the model's name in a run that kept no hash."""
    hashes = run.record.manifest.get("hashes") or {}
    return hashes.get("model") or run.record.config.get("model")


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether all entries that both have are equal: older runs lack some."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _readout(run: Run) -> dict[str, Any]:
    path = run.record.folder / "arms" / BASE / "openers.json"
    found = read_json(path, ()) if path.is_file() else {}
    return {name: found[name] for name in ("refusal", "compliance") if name in found}


def _name(run: Run) -> str:
    return str(run.record.config.get("model_name") or run.record.config.get("model"))


def _prompts(run: Run) -> Any:
    table = read_table(run.record.folder / "prompts.parquet", SAME_PROMPTS)[SAME_PROMPTS]
    return table.sort_values("id").reset_index(drop=True).astype(str)


def render_comparison(run: Run, other: Run, *, show_completions: bool = False) -> str:
    """The page as text."""
    names = _names(run, other)
    sides = [_side(one, name) for one, name in zip((run, other), names, strict=True)]
    explored = [explorable(one) for one in (run, other)]
    prompts = merged_prompts((run, other), names, show_completions=show_completions)
    maps = [name for name in explored[0]["maps"] if name in explored[1]["maps"]]
    data = [explored[0] | {"prompts": prompts}, explored[1] | {"prompts": None}]
    numbers = {
        f"overview-{place}": csv_text(one.leakage) for place, one in enumerate((run, other), 1)
    }
    view = {
        "title": f"{names[0]} compared with {names[1]}",
        "model": _name(run),
        "scorer": str(run.record.config.get("scorer") or "").replace(
            "margin + ", "" if run.by_text else "refusal log-odds and "
        ),
        "version": package_version(),
        "sides": sides,
        "differences": differences(run, other),
        "maps": {name: explored[0]["maps"][name]["title"] for name in maps},
        "show_completions": show_completions,
        "script": scripted({"runs": data, "numbers": numbers}),
    }
    return rendered("report/comparison.html.jinja", view)


def _names(run: Run, other: Run) -> tuple[str, str]:
    first, second = run.record.folder.resolve(), other.record.folder.resolve()
    if first.name != second.name:
        return first.name, second.name
    return str(first), str(second)


def _side(run: Run, name: str) -> View:
    image = BytesIO()
    with figure_style():
        overview_figure(run).savefig(image, format="svg", metadata={"Date": None})
    return {
        "name": name,
        "command": run.record.config.get("command") or "",
        "verdicts": verdict_views(run),
        "caption": overview_caption(run),
        "image": data_uri(image.getvalue()),
    }


def differences(run: Run, other: Run) -> list[View]:
    """One table per concept that both runs unlearned: every domain in both, and the difference.

    Arms are matched by concept, and by objective where the other run has it, in the order of the
    run's headlines; the plain arm is compared, and the contained arm where both runs show one.
    """
    tables = []
    for headline in headlines(run.record):
        found = [one for one in headlines(other.record) if one.concept == headline.concept]
        if not found:
            continue
        same = [one for one in found if one.plain.objective == headline.plain.objective]
        match = (same or found)[0]
        for arm, against in zip(headline.shown, match.shown, strict=False):
            tables.append(
                {
                    "title": f"{title_of(headline)}: {arm.label} and {against.label}",
                    "rows": _rows(run, arm, other, against),
                }
            )
    return tables


def _rows(run: Run, arm: Arm, other: Run, against: Arm) -> list[View]:
    quantity = shown_quantity(arm)
    if shown_quantity(against) != quantity:
        quantity = "drop"  # which every arm has
    first = run.measured[arm.name].quantities[quantity]
    second = other.measured[against.name].quantities[quantity]
    rows = []
    for domain in run.record.domains:
        if domain in first and domain in second:
            change = (second[domain] - first[domain]).estimate()
            rows.append(
                {
                    "domain": domain_label(domain),
                    "first": _cell(first[domain].estimate()),
                    "second": _cell(second[domain].estimate()),
                    "change": _cell(change),
                    "verdict": _verdict(change),
                }
            )
    return rows


def _cell(found: Estimate) -> str:
    return interval(found) if found.defined else f"– ({found.reason})"


def _verdict(change: Estimate) -> str:
    if not (change.defined and change.low <= change.high):
        return "not measured"
    if change.low > 0:
        return "more lost"
    return "less lost" if change.high < 0 else "not decided"
