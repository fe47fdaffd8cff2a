"""The values of an evaluation's page, as plain Python objects."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Any

import pandas as pd

from analyses.evaluate.findings import ALL, BASE, MODEL, ReadoutCheck, class_by, refused_by
from analyses.evaluate.measures import Measures, known_classes
from analyses.evaluate.plan import Inputs
from analyses.evaluate.words import evaluation_sentences, first_table
from analyses.figures import domain_label
from analyses.report import interval, significant
from analyses.runs import estimate_of
from interp.store import package_version
from unlearning.scoring import MEASURES, Interval

COMPLETIONS_SHOWN = 40
READ = {1.0: "refused", 0.0: "not"}
TITLES = {"harmful": "harmful", "twin": "matched benign", "general": "general"}

View = dict[str, Any]


def evaluation_facts(inputs: Inputs) -> dict[str, Any]:
    """``config.json``: the settings to run it again."""
    plan = inputs.plan
    return asdict(plan) | {
        "model_options": {name: str(value) for name, value in plan.model_options.items()},
        "scorers": list(inputs.panel),
        "prompts": plan.prompts_name,
        "max_new_tokens": plan.answer_tokens,
        "split_sizes": inputs.counted["split"].value_counts().to_dict(),
    }


def evaluation_view(inputs: Inputs, measures: Measures) -> View:
    """The template's values, as plain Python objects."""
    findings, plan = measures.findings, inputs.plan
    config = evaluation_facts(inputs)
    kinds = inputs.counted["kind"].fillna("harmful").value_counts()
    return {
        "name": plan.name_of(plan.model),
        "base": plan.name_of(plan.base) if plan.base else "",
        "served": plan.server or "",
        "prompt_counts": ", ".join(
            f"{kinds[kind]} {TITLES[kind]}" for kind in TITLES if kind in kinds
        ),
        "prompts_name": plan.prompts_name,
        "splits": ", ".join(plan.splits),
        "scorers": ", ".join(findings.readings),
        "headline": findings.headline,
        "is_organism": plan.defaults.organism is not None,
        "sentences": evaluation_sentences(measures),
        "notes": findings.notes,
        "log_odds": _readout(findings.readout),
        "gate_command": ""
        if plan.server
        else shlex.join(["spillover", "doctor", plan.model, "--gate"]),
        "first": _plain(first_table(measures)),
        "classes": [_class_table(measures, scorer) for scorer in findings.panel],
        "agreement": _agreement(measures),
        "disagreeing": len(measures.disagreements),
        "answers": int((findings.scores["role"] == MODEL).sum()),
        "sources": _sources(measures),
        "divergence": _divergence(measures),
        "positions": plan.positions,
        "texts": _by_role(measures.texts, ["quantity"]),
        "tasks": _by_role(measures.tasks, ["task", "metric"]),
        "task_format": ""
        if plan.tasks is None
        else ("in the chat format" if plan.tasks.chat_template else "without a chat template"),
        "answer_tokens": plan.answer_tokens,
        "reference": "the base" if plan.base else "the model itself",
        "command": plan.command,
        "seconds": findings.seconds,
        "version": package_version(),
        "hashes": findings.fingerprints,
        "config_text": json.dumps(config, indent=2, ensure_ascii=False, default=str),
    }


def _readout(check: ReadoutCheck) -> View:
    prefixes = check.prefix_texts or {}
    return {
        "valid": check.valid,
        "verdict": check.verdict,
        "auc": f"{interval(check.auc)}, n = {check.auc.n}" if check.auc.defined else "–",
        "refusal": [repr(text) for text in prefixes.get("refusal", ())],
        "compliance": [repr(text) for text in prefixes.get("compliance", ())],
    }


def _plain(table: pd.DataFrame) -> View:
    return {"columns": list(table.columns), "rows": table.to_numpy().tolist()}


def _class_table(measures: Measures, scorer: str) -> View:
    findings = measures.findings
    names = known_classes(findings.scores[class_by(scorer)])
    rows = []
    for role in findings.roles:
        for prompts in TITLES:
            groups = [ALL] if prompts == "general" else [*measures.groups(prompts), ALL]
            for group in groups:
                shares = [
                    measures.pick(f"share:{name}", prompts, group, scorer, role) for name in names
                ]
                if not shares[0].n:
                    continue
                title = TITLES[prompts]
                if prompts != "general":
                    title += f": {'all' if group == ALL else domain_label(group)}"
                title += " (base)" if role == BASE else ""
                rows.append([title, *map(interval, shares), shares[0].n])
    columns = ["prompts", *(name.replace("_", " ") for name in names), "n"]
    return {"scorer": scorer, "columns": columns, "rows": rows}


def _agreement(measures: Measures) -> View:
    rows = []
    for row in measures.agreement.to_dict("records"):
        bounds = [
            str(Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])) for name in MEASURES
        ]
        rows.append([row["first"], row["second"], row["n"], *bounds])
    return {"columns": ["first", "second", "n", *MEASURES], "rows": rows}


def _sources(measures: Measures) -> View:
    readings, rows = measures.findings.readings, []
    for source in measures.groups("source"):
        rates = [measures.pick("refusal_rate", "source", source, name) for name in readings]
        rows.append([source, *map(interval, rates), rates[0].n])
    return {"columns": ["source", *readings, "n"], "rows": rows}


def _divergence(measures: Measures) -> list[str]:
    """The mean over positions, for all benign prompts and each kind of them."""
    table = measures.divergence[measures.divergence["position"] == 0]
    names = {ALL: "all benign prompts", "twin": "matched benign prompts", "general": "general ones"}
    return [
        f"{names[row['group']]}: {significant(estimate_of(row))}, n = {row['n']}"
        for row in table.to_dict("records")
    ]


def _by_role(table: pd.DataFrame, keys: list[str]) -> View:
    """A row per key, a column for the model, its base and the paired difference."""
    if table.empty:
        return {"columns": [], "rows": []}
    roles = [role for role in (MODEL, BASE, "difference") if role in set(table["role"])]
    rows = []
    for key, part in table.groupby(keys, sort=False):
        found = {row["role"]: row for row in part.to_dict("records")}
        cells = [significant(estimate_of(found[r])) if r in found else "" for r in roles]
        rows.append([*key, *cells, int(part["n"].iloc[0])])
    return {"columns": [*keys, *roles, "n"], "rows": rows}


def completions_view(inputs: Inputs, measures: Measures) -> list[View]:
    """A few answers, those with different readings first."""
    findings = measures.findings
    prompts = inputs.prompts.set_index("id")["prompt"]
    mine = findings.scores[findings.scores["role"] == MODEL]
    differing = set(measures.disagreements["prompt_id"])
    order = mine.assign(differs=mine["prompt_id"].isin(differing)).sort_values(
        "differs", ascending=False, kind="stable"
    )
    return [
        {
            "domain": domain_label(row["domain"]),
            "label": row["label"],
            "readings": ", ".join(
                f"{name}: {READ.get(row[refused_by(name)], 'no verdict')}"
                for name in findings.readings
            ),
            "class": row[class_by(findings.headline)],
            "prompt": prompts[row["prompt_id"]],
            "completion": findings.completions[MODEL, row["prompt_id"]],
        }
        for row in order.head(COMPLETIONS_SHOWN).to_dict("records")
    ]
