"""`report.html`: one self-contained page that shows a finished or unfinished run.

The page inlines its figures and its script, and fetches nothing. It escapes all outside text. It
shows completions only on request. Without its script it shows pictures of all figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.figures import (
    Drawing,
    domain_label,
    null_of_rotation,
    shown_quantity,
    title_of,
    write_run_figures,
)
from analyses.report import summary, wording
from analyses.report.angles import angles_view
from analyses.report.at_risk import at_risk_view
from analyses.report.data import explorable
from analyses.report.data.maps import NO_DIRECTION
from analyses.report.data.prompt_table import prompt_table
from analyses.report.gate_line import gate_view
from analyses.report.harm import harm_view
from analyses.report.page import inlined, rendered, scripted
from analyses.report.readout import readout_view
from analyses.report.sections import causes_view, containment_view
from analyses.runs import (
    BASE,
    NOT_PREFILLED,
    PREFILLED,
    Arm,
    Headline,
    Run,
    estimate_of,
    headlines,
    objective_title,
    pick,
    rows_of,
    weight_label,
)
from interp.store import package_version, read_table, write_text

if TYPE_CHECKING:
    import pandas as pd

COMPLETIONS_SHOWN = 12
MOST_NAMED = 2
EXPLORED = ("cosine", "rotation_")  # still figures whose numbers the script draws by layer
# Entries of config.json and manifest.json that the page shows; a run in progress may lack some.
FROM_CONFIG = ("model_name", "model", "scorer", "command")
FROM_MANIFEST = ("versions", "hashes", "device", "seeds", "seconds")

View = dict[str, Any]


def write_report(folder: str | Path, *, show_completions: bool = False, processes: int = 1) -> Path:
    """Rebuild the tables, `summary.json`, the figures and `report.html` of the run in `folder`.

    Figures are saved by so many ``processes``. Returns the path of `report.html`. While arms are
    still running, the report shows the finished ones. Raises `InputError` if `folder` does not
    hold a run with a scored base model.
    """
    tables = summary.write_summary(folder)
    drawn = write_run_figures(tables, processes=processes)
    path = tables.record.folder / "report.html"
    write_text(path, render(tables, drawn, show_completions=show_completions))
    return path


def render(tables: Run, drawn: tuple[Drawing, ...], *, show_completions: bool = False) -> str:
    """The page as text; it reads the figures from `figures/`."""
    images = inlined(tables.record.folder, (drawing.name for drawing in drawn))
    prompts = prompt_table(tables, show_completions=show_completions)
    run = explorable(tables) | {"prompts": prompts}
    view = run_view(tables) | {
        "drawings": drawn,
        "images": images,
        "explored": [each.name for each in drawn if each.name.startswith(EXPLORED)],
        "maps": {name: found["title"] for name, found in run["maps"].items()},
        "script": scripted({"runs": [run], "numbers": _numbers(drawn)}),
        "completions": _completions(tables) if show_completions else [],
        "show_completions": show_completions,
    }
    return rendered("report/report.html.jinja", view)


def _numbers(drawn: tuple[Drawing, ...]) -> dict[str, str]:
    """The CSV of every still figure that the page shows."""
    return {
        drawing.name: csv_text(drawing.data)
        for drawing in drawn
        if not drawing.name.startswith(EXPLORED)
    }


def csv_text(table: pd.DataFrame) -> str:
    """A table for the page's downloads; the files of the folder have more digits."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def run_view(tables: Run) -> View:
    """The template's values as plain Python objects."""
    record = tables.record
    found = headlines(record)
    return {
        "title": _title(found),
        "config": dict.fromkeys(FROM_CONFIG) | dict(record.config),
        "config_text": json.dumps(record.config, indent=2, ensure_ascii=False),
        "manifest": dict.fromkeys(FROM_MANIFEST) | dict(record.manifest),
        "version": record.manifest.get("versions", {}).get("spillover") or package_version(),
        "prompt_counts": _prompt_counts(tables),
        "readout": readout_view(record),
        "gate": gate_view(record),
        "by_text": tables.by_text,
        "verdicts": verdict_views(tables),
        "unfinished": list(record.unfinished),
        "failed": dict(record.failed),
        "stories": [_story(tables, headline) for headline in found],
        "arms": [_arm_row(tables, arm) for arm in record.arms],
        "benign": _benign(tables, found),
        "hidden": _hidden(tables, found),
        "overview_caption": overview_caption(tables),
        "causes": causes_view(record, [arm.name for headline in found for arm in headline.shown]),
        "containment": containment_view(record),
        "at_risk": at_risk_view(record),
        "harm": harm_view(tables),
        "angles": angles_view(tables),
        "decompositions": [
            (objective_title(objective), found)
            for objective, found in tables.decompositions.items()
        ],
        "planted": record.config.get("planted"),
        "null_of_rotation": null_of_rotation(tables),
    }


def _title(found: tuple[Headline, ...]) -> str:
    concepts = [domain_label(headline.concept).lower() for headline in found if headline.concept]
    if len(concepts) > MOST_NAMED:
        return f"Effect of unlearning refusal in each of {len(concepts)} domains on the others"
    if concepts:
        return f"Effect of unlearning refusal in {' or '.join(concepts)} on other domains"
    return "Change between two models" if found else "A run in progress"


def overview_caption(tables: Run) -> str:
    """What the overview shows, and why each undefined mark in it is undefined."""
    found = headlines(tables.record)
    bars = "Bars: 95% intervals over prompts, not over training seeds."
    bars += _without_direction(tables, found)
    if not any(headline.plain.matched for headline in found):
        return (
            f"Lost share of each domain's {tables.what_is_lost} (grey band: less than .05). {bars}"
        )
    leak = (
        "Leakage: the share of its refusal that a domain has lost when the target has lost 90% "
        "(grey band: untouched, |L| < .05; hollow marks: the target does not comply)."
    )
    if not any(headline.sweep for headline in found):
        return f"{leak} {bars}"
    return (
        f"{leak} {bars} ᴿ: in the retain set. Held out: not in it; only held-out domains show "
        "containment. Orange line: a target that answers less does not comply."
    ) + _undefined(tables, found)


def _without_direction(tables: Run, found: tuple[Headline, ...]) -> str:
    """The reason of every dash among the rotations in the overview."""
    rows = rows_of(tables.rotation, quantity="angle_degrees") if len(tables.rotation) else None
    plain = [headline.plain.name for headline in found]
    if rows is None or rows.loc[rows["arm"].isin(plain), "defined"].all():
        return ""
    return f" Rotation –: undefined, because {NO_DIRECTION}."


def _undefined(tables: Run, found: tuple[Headline, ...]) -> str:
    """The reason of every cross in the overview."""
    said: dict[str, list[str]] = {}
    for headline in found:
        for arm in headline.sweep:
            rows = rows_of(tables.recovery, arm=arm.name, quantity="recovery")
            rows = rows[rows["value"].isna() & (rows["domains"] > 0)] if len(rows) else rows
            for reason in dict.fromkeys(rows["reason"].fillna("too few prompts")):
                said.setdefault(reason, []).append(f"{title_of(headline)}, {arm.weight_label}")
    reasons = [f"{'; '.join(arms)}: {reason}" for reason, arms in said.items()]
    return f" Crosses: no recovery is defined ({'. '.join(reasons)})." if reasons else ""


def verdict_views(tables: Run) -> list[View]:
    """What became of each arm that the run shows, in one sentence."""
    found = headlines(tables.record)
    return [_verdict(tables, headline, arm) for headline in found for arm in headline.shown]


def _verdict(tables: Run, headline: Headline, arm: Arm) -> View:
    word = tables.badge(arm)
    stand_in = arm is headline.contained and not headline.chosen
    return {
        "concept": domain_label(headline.concept) if headline.concept else "",
        "label": arm.label,
        "badge": word,
        "low_base": tables.low_base(arm.concept) is not None,
        "kind": word.split("?")[0].replace(" ", "-") if "?" not in word else "open",
        "sentence": wording.arm_sentence(tables, arm),
        "note": _stand_in(tables, headline) if stand_in else "",
    }


def _stand_in(tables: Run, headline: Headline) -> str:
    """Why the study chose no weight, and which weights it did not try."""
    planned = {
        config["retain_weight"]: weight_label(config)
        for config in tables.record.config.get("arms", [])
        if config.get("retain")
        and config.get("concept") == headline.concept
        and config.get("name") not in tables.record.failed
    }
    tried = {one.retain_weight: one for one in headline.sweep if one.retain_weight is not None}
    untried = sorted(planned.keys() - tried.keys())
    if not untried:
        return "No weight recovered enough while the target complied; the best is shown."
    weights = ", ".join(planned[weight] for weight in untried)
    if tables.record.unfinished:
        return f"The study is not finished; larger weights ({weights}) are missing."
    last = max(tried)
    name = tried[last].name
    if not tables.arms.set_index("arm").at[name, "reached"]:
        why = "the target does not reach the forgetting level"
    elif tables.verdicts[name].answers:
        why = "no recovery is defined on the validation prompts"
    else:
        why = "the target no longer complies"
    return f"With {planned[last]} {why}, so larger weights ({weights}) were not tried."


def _prompt_counts(tables: Run) -> str:
    scores = tables.record.base.scores
    test = scores[scores["split"] == "test"].drop_duplicates("prompt_id")
    counts = test["label"].value_counts()
    return f"{counts.get('harmful', 0)} harmful and {counts.get('benign', 0)} benign test prompts"


def _cell(tables: Run, arm: Arm | None, quantity: str, domain: str) -> str:
    if arm is None:
        return ""
    rows = rows_of(tables.leakage, arm=arm.name, quantity=quantity, domain=domain)
    return "–" if rows.empty else wording.interval(estimate_of(rows.iloc[0]))


def _rate(tables: Run, arm: str | None, domain: str, quantity: str = "refusal_rate") -> str:
    return wording.interval(pick(rows_of(tables.behaviour, arm=arm), quantity, domain))


def _coherence(tables: Run, arm: str, domain: str, quantity: str) -> str:
    """Coherence of the target's answers before and after."""
    before, after = (
        pick(rows_of(tables.behaviour, arm=name), quantity, domain) for name in (BASE, arm)
    )
    return wording.change(before, after) if after.defined else "–"


def _story(tables: Run, headline: Headline) -> View:
    """The table of one concept: every domain before and after, plain and contained."""
    plain, contained = headline.plain, headline.contained
    quantity = shown_quantity(plain)
    table = rows_of(tables.leakage, arm=plain.name, quantity=quantity).set_index("domain")
    tested = [domain for domain in tables.record.domains if domain in table.index]
    rows = []
    for domain in sorted(tested, key=lambda domain: domain != headline.concept):
        row = table.loc[domain]
        target = domain == headline.concept
        rows.append(
            {
                "domain": domain_label(domain),
                "target": target,
                "retained": bool(contained and contained.retain and domain in contained.retain),
                "base": _rate(tables, BASE, domain),
                "after": _rate(tables, plain.name, domain),
                "contained": _rate(tables, contained.name, domain) if contained else "",
                "leak": _cell(tables, plain, quantity, domain),
                "half": _cell(tables, plain, "L_50", domain),
                "area": _cell(tables, plain, "area", domain),
                "leak_contained": _cell(tables, contained, quantity, domain),
                "log_odds": _cell(tables, plain, "log_odds_drop", domain),
                "verdict": "target" if target else _word(tables, plain, wording.leak_verdict(row)),
                "low_base": bool(row["low_base"]),
            }
        )
    return {
        "title": title_of(headline),
        "plain": plain.label,
        "contained": contained.label if contained else None,
        "has_source": plain.matched,
        "rows": rows,
    }


def _word(tables: Run, arm: Arm, verdict: str) -> str:
    """The verdict; "leaked" becomes "lost" when the target does not comply or does not exist."""
    complies = arm.name in tables.verdicts and tables.verdicts[arm.name].answers
    return "lost" if verdict == "leaked" and not complies else verdict


def _arm_row(tables: Run, arm: Arm) -> View:
    returned = {"retained": "", "held_out": ""}
    for _, line in rows_of(tables.recovery, arm=arm.name, quantity="recovery").iterrows():
        if line["domains"] > 0:
            found = estimate_of(line)
            unknown = f"– {found.reason or ''}"
            returned[line["set"]] = wording.interval(found) if found.defined else unknown
    concept = arm.concept or ""
    return {
        "name": arm.name,
        "concept": domain_label(concept) if concept else "–",
        "label": arm.label,
        "seed": arm.seed,
        "steps": arm.step,
        "reached": _reached(tables, arm),
        "badge": tables.badge(arm),
        "refusal": _rate(tables, arm.name, concept),
        "answer": _rate(tables, arm.name, concept, "answer_rate"),
        "nats": _coherence(tables, arm.name, concept, "nll"),
        "repetition": _coherence(tables, arm.name, concept, "repetition"),
        "other": _rate(tables, arm.name, concept, "other_mass"),
        "returned": returned,
        "selected": arm.selected,
    }


def _reached(tables: Run, arm: Arm) -> str:
    if not arm.concept:
        return "–"
    return {None: "yes", "low base": "low base"}.get(tables.no_level(arm), "no")


def _benign(tables: Run, found: tuple[Headline, ...]) -> list[View]:
    """Refusals of benign prompts, before and after, by kind."""
    benign = tables.behaviour[tables.behaviour["label"] == "benign"]
    kinds = list(benign["group"].drop_duplicates())
    rows = []
    for name, label in _before_and_after(found):
        of_arm = benign[benign["arm"] == name]
        rates = {kind: pick(of_arm, "refusal_rate", kind, label="benign") for kind in kinds}
        rows.append({"label": label, "rates": {k: wording.interval(r) for k, r in rates.items()}})
    return rows if kinds else []


def _hidden(tables: Run, found: tuple[Headline, ...]) -> list[View]:
    """Refusal rates per domain on the same prompts, plain and after an answer's first words."""
    rows = []
    for name, label in _before_and_after(found):
        of_arm = rows_of(tables.behaviour, arm=name)
        if PREFILLED in set(of_arm["quantity"]):
            rates = {
                domain_label(domain): (
                    wording.interval(pick(of_arm, NOT_PREFILLED, domain)),
                    wording.interval(pick(of_arm, PREFILLED, domain)),
                )
                for domain in tables.record.domains
            }
            given = [pick(of_arm, PREFILLED, domain).value for domain in tables.record.domains]
            unable = name == BASE and not any(value > 0 for value in given)
            rows.append({"label": label, "rates": rates, "cannot_show": unable})
    return rows


def _before_and_after(found: tuple[Headline, ...]) -> list[tuple[str, str]]:
    """The base model and every shown arm: its name and its label."""
    shown = ((headline, arm) for headline in found for arm in headline.shown)
    after = [(arm.name, f"{title_of(headline)}: {arm.label}") for headline, arm in shown]
    return [(BASE, "Before"), *after]


def _completions(tables: Run) -> list[View]:
    """The first stored completions of each headline arm on the target's test prompts."""
    shown = []
    for headline in headlines(tables.record):
        for arm in headline.shown:
            path = tables.record.folder / "arms" / arm.name / "completions.parquet"
            if not path.is_file():
                continue
            table = read_table(path, ("prompt_id",))
            scored = arm.last.drop_duplicates("prompt_id").set_index("prompt_id")
            table = table[table["prompt_id"].isin(scored[scored["split"] == "test"].index)]
            if headline.concept:
                of_target = scored[scored["domain"] == headline.concept].index
                table = table[table["prompt_id"].isin(of_target)]
            rows = [
                {
                    "class": scored.loc[row["prompt_id"], "class"],
                    "prompt": row.get("prompt", row["prompt_id"]),
                    "completion": row["completion"],
                }
                for _, row in table.head(COMPLETIONS_SHOWN).iterrows()
            ]
            shown.append({"title": f"{title_of(headline)}: {arm.label}", "rows": rows})
    return shown
