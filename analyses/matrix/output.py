"""The output of `spillover matrix`: ``matrix.csv``, ``matrix.json``, figures, and its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analyses.matrix.figures import leakage_matrix_figure
from analyses.runs import SHARE_KEYS, TESTED, LeakageMatrix, TargetOutcome, seed_spread
from interp.errors import InputError
from interp.store import read_json, without_nan, write_json

SYMBOLS = {"area": "A", "L_50": "L_.5", "L_90": "L_.9"}
ALPHA = 0.05


def write_matrix(
    matrix: LeakageMatrix, folder: str | Path, quantity: str = "area", *, name: str = "matrix"
) -> str:
    """Write the matrix of one run, or of several runs together; return the text to print.

    ``matrix.csv`` has a row per arm and cell, ``matrix-last-step.csv`` the text of every arm at its
    last scored step, ``matrix.json`` the means with their parts,
    ``figures/matrix.svg`` and ``.png`` the figure (several runs have one each and ``worlds``).
    Another ``name`` gives other file names in the same folder.
    """
    from analyses.figures import Drawing, write_results

    folder = Path(folder)
    found = matrix_summary(matrix, quantity)
    drawn = []
    for run in matrix.runs:
        for objective in matrix.objectives(run):
            parts = [run] * (len(matrix.runs) > 1) + [objective] * (len(matrix.objectives(run)) > 1)
            rows = matrix.means(quantity, run=run, objective=objective)
            drawing = leakage_matrix_figure(matrix, run, quantity, objective)
            drawn.append(Drawing("-".join([name, *parts]), "", "", drawing, rows))
    if len(matrix.runs) > 1:
        together = leakage_matrix_figure(matrix, quantity=quantity)
        drawn.append(Drawing("worlds", "", "", together, matrix.means(quantity)))
    tables = {name: matrix.cells, f"{name}-last-step": matrix.last_step}
    write_results(folder, tables=tables, facts={name: found}, drawings=drawn)
    return matrix_text(found)


def write_rescaled(
    along: LeakageMatrix, trained: LeakageMatrix, folder: str | Path, quantity: str = "area"
) -> str:
    """Write the matrix along the scaled change, compared with training; return text to print."""
    from analyses.matrix.rescaling import rescaling_agreement

    said = write_matrix(along, folder, quantity, name="matrix-rescaled")
    found = rescaling_agreement(along, trained, quantity)
    path = Path(folder) / "matrix-rescaled.json"
    write_json(path, read_json(path) | {"against_training": found})
    lines = [f"along the scaled weight change instead of training:\n{said}"]
    if "correlation" in found:
        lines.append(
            f"compared with training, {found['n']} cells: correlation {found['correlation']:.3f}, "
            f"mean difference {found['mean']:.3f}, largest {found['largest']:.3f}"
        )
    return "\n".join(lines)


def matrix_summary(matrix: LeakageMatrix, quantity: str = "area") -> dict[str, Any]:
    """``matrix.json``: every run's matrices with their parts; over runs where there are two."""
    runs = {
        run: {
            "domains": list(matrix.domains(run)),
            "objectives": {o: _matrix(matrix, run, quantity, o) for o in matrix.objectives(run)},
            "last_step": matrix.last_step[matrix.last_step["run"] == run]
            .drop(columns="run")
            .to_dict("records"),
            "left_out": matrix.left_out.loc[
                matrix.left_out["run"] == run, ["arm", "outcome", "reached", "why"]
            ].to_dict("records"),
        }
        for run in matrix.runs
    }
    found: dict[str, Any] = {"quantity": quantity, "runs": runs}
    if len(runs) > 1:
        found["pooled"] = matrix.pooled(quantity)
    return without_nan(found)


def matrix_text(found: dict[str, Any]) -> str:
    """A summary for the terminal."""
    symbol = SYMBOLS[found["quantity"]]
    lines: list[str] = []
    for run, of_run in found["runs"].items():
        domains = of_run["domains"]
        for objective, of in of_run["objectives"].items():
            table = pd.DataFrame(of["matrix"], domains, domains).astype(float)
            lines += [f"{symbol}[unlearned, other] of {run}, {objective}, on test prompts"]
            lines += [table.round(2).to_string(na_rep="-"), *_outcomes(of), *_sentences(of, symbol)]
        lines += _last_step(of_run["last_step"], domains)
        for left in of_run["left_out"]:
            lines.append(f"left out: {left['arm']} ({left['why']})")
    if "pooled" in found:
        shares = _by_part(found["pooled"]["shares"])
        said = (f"{part} {_shown(share)}" for part, share in shares if share["value"] is not None)
        lines.append(f"over {len(found['runs'])} runs, shares of variance: {', '.join(said)}")
    return "\n".join(lines)


def _outcomes(of: dict[str, Any]) -> list[str]:
    """A line per source whose target did not comply in every arm."""
    lines = []
    for source, outcomes in of["outcomes"].items():
        badges = [TargetOutcome(outcome).badge for outcome in outcomes]
        failed = [badge for badge in badges if badge != TargetOutcome.COMPLIED.badge]
        if failed:
            counted = ", ".join(f"{failed.count(b)} {b}" for b in dict.fromkeys(failed))
            lines.append(f"! {source}: of {len(badges)} arms, {counted}")
    return lines + [
        f"! {source}: low base, the base model refuses less than half of its prompts"
        for source in of["low_base"]
    ]


def _last_step(rows: list[dict[str, Any]], domains: list[str]) -> list[str]:
    """The share of generated refusals that is gone, of every arm at its last step."""
    if not rows:
        return []
    table = pd.DataFrame(rows).pivot(index="arm", columns="domain", values="value").astype(float)
    title = "share of generated refusals gone at the last scored step, all arms, on test prompts"
    return [title, table.reindex(columns=domains).round(2).to_string(na_rep="-")]


def _sentences(of: dict[str, Any], symbol: str) -> list[str]:
    lines = []
    cells = sum(value is not None for row in of["matrix"] for value in row)
    leaks = sum(low is not None and low > 0 for row in of["low"] for low in row)
    untouched = sum(p is not None and p < ALPHA for row in of["untouched_p"] for p in row)
    lines.append(
        f"{leaks} of {cells} cells have an interval above 0; "
        f"{untouched} are shown not to leak (|L_.9| < .05, p < {ALPHA})"
    )
    if of["decomposition"] is None:
        lines.append(f"no decomposition: {of['why']}")
    else:
        p_value = of["decomposition"]["p_entanglement"]
        parts = _by_part(of["decomposition"])
        shares = ", ".join(f"{part} {value:.2f}" for part, value in parts if value is not None)
        lines.append(f"shares of the variance of {symbol}: {shares}")
        if p_value is None and of["decomposition"][SHARE_KEYS["noise"]] is not None:
            lines[-1] += " (the seeds agree, so the interaction is not tested)"
        elif p_value is None:
            lines[-1] += " (interaction includes noise: two seeds are needed to separate them)"
        else:
            lines[-1] += f" (interaction against noise: p = {p_value:.2g})"
    if of["reliability"] is not None:
        lines.append(f"reliability over unlearning seeds {of['reliability']:.3f}")
    return lines


def _by_part(shares: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(part.replace("_", " "), shares[key]) for part, key in SHARE_KEYS.items()]


def _matrix(matrix: LeakageMatrix, run: str, quantity: str, objective: str) -> dict[str, Any]:
    def of_cells(rows: pd.DataFrame, column: str) -> list[list[float]]:
        return matrix.wide(run, rows.groupby(["source", "target"])[column].mean()).tolist()

    cells = matrix.cells_of(run, objective)
    means, tested = (matrix.means(q, run=run, objective=objective) for q in (quantity, TESTED))
    found: dict[str, Any] = {
        "matrix": of_cells(means, "value"),
        "low": of_cells(means, "low"),
        "high": of_cells(means, "high"),
        "untouched_p": of_cells(tested, "untouched_p"),
        "onset": of_cells(cells, "onset"),
        "outcomes": matrix.outcomes(run, objective),
        "low_base": matrix.low_bases(run),
        "seeds": sorted(int(seed) for seed in cells["seed"].unique()),
        "between_seeds": seed_spread(cells, quantity)[0],
        "reliability": matrix.reliability(run, quantity, objective),
    }
    try:
        parts = matrix.decomposition(run, quantity, objective)
    except InputError as error:
        return {**found, "decomposition": None, "why": str(error)}
    shares = {key: getattr(parts, f"{part}_share") for part, key in SHARE_KEYS.items()}
    return found | {
        "decomposition": shares | {"p_entanglement": parts.p_value},
        SHARE_KEYS["source_effect"]: dict(parts.source_effect),
        SHARE_KEYS["target_effect"]: dict(parts.target_effect),
        "asymmetry": matrix.asymmetry(run, quantity, objective),
    }


def _shown(estimate: dict[str, Any]) -> str:
    value = f"{estimate['value']:.2f}"
    if estimate["low"] is None:
        return value
    return f"{value} ({estimate['low']:.2f} to {estimate['high']:.2f})"
