"""The page: whole in one file, safe to open, its sentences decided by the numbers."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pandas as pd
import pytest

from analyses.report import run_report, wording
from analyses.report.at_risk import at_risk_view
from analyses.report.page import rendered
from analyses.report.summary import summarise
from analyses.runs import Arm, Run, TargetVerdict, pick, tables, update_config
from analyses.study import require_trained
from interp.errors import TrainingError
from interp.statistics import Estimate, rate_of
from interp.store import read_json, write_json
from spillover import example_run
from tests.synthetic_run import PLANTED_NLL, write_comparison, write_run

UNCLOSED = {"meta", "img", "br", "link", "input"}


class _Page(HTMLParser):
    """What a page asks of the world, and whether its tags are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href") and value]
        if tag not in UNCLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(
        tmp_path_factory.mktemp("run"),
        concepts=("safety",),
        degenerate=("npo-retain-100-safety-0",),
        not_reached=("npo-retain-1-safety-0",),
        unfinished=("npo-retain-10-safety-0",),
    )


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    path = run_report.write_report(run)
    assert path == run / "report.html" and (run / "summary.json").is_file()
    return path.read_text("utf-8")


def test_the_page_is_whole_and_asks_nothing_of_the_world(page):
    """Its policy allows its two scripts by their hashes, and no connection."""
    parsed = _Page(page)
    assert not parsed.open
    assert all(address.startswith(("data:image/svg+xml", "#")) for address in parsed.addresses)
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "url(" not in without_scripts and "@import" not in without_scripts
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts]
    allowed = " ".join(f"'sha256-{found.decode()}'" for found in hashes)
    assert len(scripts) == 2 and f'script-src {allowed}"' in page
    assert "default-src 'none'" in page and "connect-src" not in page


def test_replaced_figures_stay_for_readers_without_scripts(run, page):
    pictures = re.findall(r'data-name="(\w+)"', page)
    assert sorted(pictures) == sorted(path.stem for path in (run / "figures").glob("*.svg"))
    (stills,) = re.findall(r"<noscript>(.*?)</noscript>", page, flags=re.DOTALL)
    names = set(re.findall(r'data-name="(\w+)"', stills))
    assert names == {name for name in pictures if name.startswith(("cosine", "rotation"))} != set()


def test_a_target_that_the_base_model_hardly_refuses_is_marked(run):
    found = Run(run)
    arms = [arm for arm in found.record.arms if arm.concept]
    assert arms and not any(one["low_base"] for one in summarise(found)["arms"])
    rate = found.low_base("sensitive")  # the base model refuses .15 of it
    assert rate is not None and rate.value < 0.5 and found.low_base("safety") is None


def test_the_first_screen_marks_results_of_a_low_base(page, tmp_path, monkeypatch):
    badge = '<span class="badge open">low base</span>'
    assert badge not in page
    monkeypatch.setattr("analyses.runs.tables.WEAKLY_ALIGNED", 1.0)
    weak = write_run(tmp_path / "weak", concepts=("safety",), weights=(), rotation=False)
    marked = run_report.write_report(weak).read_text("utf-8")
    assert badge in marked[: marked.index("Domain by domain")]


def test_the_first_screen_names_what_matters(page):
    top = page[: page.index("Domain by domain")]
    for words in ("leaked away in", "complied", "recovered", "rotated at layers 2–3"):
        assert words in top
    assert "npo-retain-10-safety-0" in top  # what is missing is said
    # Two arms have no recovery: one is degenerate, one never reached the level.
    assert "×100: the contained arm&#39;s target does not comply" in top and "×1: " in top
    assert "model organism" in top


def test_coherence_stands_beside_the_target_s_refusal_rate(run):
    built = tables.Run(run)
    cells = {row["name"]: row for row in run_report.run_view(built)["arms"]}

    def planted(arm: Arm) -> float:
        rows = arm.last.query("split == 'test' and label == 'harmful' and domain == 'safety'")
        return rows["class"].map(PLANTED_NLL).mean()

    for arm in built.record.arms:
        before, after = cells[arm.name]["nats"].split(" → ")
        assert before == f"{planted(built.record.base):.2f}"
        assert after.startswith(f"{planted(arm):.2f} (")
    assert cells["npo-safety-0"]["repetition"].startswith("0.00 → 0.0")
    assert cells["npo-retain-100-safety-0"]["repetition"].startswith("0.00 → 0.4")  # degenerate


def test_a_run_that_was_made_before_coherence_was_measured_still_loads(run, tmp_path):
    old = Path(shutil.copytree(run, tmp_path / "old"))
    for path in old.glob("arms/*/scores.parquet"):
        pd.read_parquet(path).drop(columns=["nll", "repetition"]).to_parquet(path)
    built = tables.Run(old)
    unknown = built.behaviour[built.behaviour["quantity"].isin(["nll", "repetition"])]
    assert unknown["value"].isna().all() and unknown["reason"].str.contains("no text").all()
    assert {row["nats"] for row in run_report.run_view(built)["arms"]} == {"–"}


def test_the_ground_truth_is_called_so_and_absent_elsewhere(run, page, tmp_path):
    assert "Ground truth" in page
    folder = write_comparison(tmp_path)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"planted": None})
    elsewhere = run_report.render(tables.Run(folder), ())
    assert "Ground truth" not in elsewhere and "model organism" not in elsewhere


def test_foreign_text_is_escaped_and_completions_stay_out_unless_asked(tmp_path):
    folder = write_comparison(tmp_path)
    config = read_json(folder / "config.json")
    evil = "<script>alert(1)</script>"
    write_json(folder / "config.json", config | {"model_name": evil, "command": evil})
    ids = pd.read_parquet(folder / "prompts.parquet")["id"]
    completions = pd.DataFrame({"prompt_id": ids, "completion": f"said {evil}"})
    completions.to_parquet(folder / "arms" / "after" / "completions.parquet")
    built = tables.Run(folder)
    hidden = run_report.render(built, ())
    assert evil not in hidden and "said &lt;" not in hidden and "said \\u003c" not in hidden
    shown = run_report.render(built, (), show_completions=True)
    assert evil not in shown and "said &lt;script&gt;" in shown and "said \\u003cscript" in shown


def test_every_containment_method_is_in_the_report(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    assert "<h2>Containment" not in run_report.render(tables.Run(folder), ())
    (folder / "containment").mkdir()
    (folder / "containment" / "containment.svg").write_text("<svg/>")
    recovery = {"held_out": 0.5, "held_out_low": 0.25, "held_out_high": 0.75, "retained": None}
    counts = {"examples": None, "weight": None, "splits": 6, "complied": 5, "answer_rate": None}
    stored = {
        "concept": "medical_legal",
        "titles": {"mine": "<b>Mine</b>"},
        "methods": [recovery | counts | {"method": name} for name in ("mine", "gone")],
        "advice": ["Take <i>mine</i>."],
    }
    write_json(folder / "containment" / "containment.json", stored)
    page = run_report.render(tables.Run(folder), ())
    for part in (
        "Containment of Medical/Legal", "&lt;b&gt;Mine&lt;/b&gt;", "<td>gone</td>",
        "0.50 (0.25–0.75)", "5 of 6", "Take &lt;i&gt;mine", "data:image/svg+xml;base64,PHN2Zy8+",
    ):  # fmt: skip
        assert part in page


def test_a_run_with_no_finished_arm_has_a_page(tmp_path):
    folder = write_run(tmp_path, concepts=("safety",), rotation=False)
    for arm in (folder / "arms").iterdir():
        if arm.name != "base":
            (arm / "DONE").unlink()
    (folder / "manifest.json").unlink()
    assert "No arm has finished yet" in run_report.write_report(folder).read_text("utf-8")


def _verdict(answers: int, n: int, other: float = 0.02) -> TargetVerdict:
    mass = Estimate(other, other - 0.01, other + 0.01, n)
    return TargetVerdict(rate_of(0, n), rate_of(answers, n), mass, Estimate(0.01, 0.0, 0.02, n))


def test_a_target_is_called_compliant_or_degenerate_only_when_that_is_decided():
    assert wording.target_clause(_verdict(99, 100)).startswith("the target complied")
    assert "DEGENERATE" in wording.target_clause(_verdict(10, 100, other=0.9))
    for answers in (17, 15):  # .85 and .75 of 20: the interval holds the threshold
        assert "not decided" in wording.target_clause(_verdict(answers, 20))


@pytest.mark.parametrize(
    ("low", "high", "untouched_p", "verdict"),
    [
        (0.06, 0.2, 0.9, "leaked"),
        (0.04, 0.2, 0.9, "not decided"),
        (-0.02, 0.03, 0.01, "untouched"),
        (-0.02, 0.06, 0.2, "not decided"),
        (-0.3, -0.1, 0.9, "more refusing"),
        (float("nan"), float("nan"), float("nan"), "not decided"),
    ],
)
def test_a_leak_is_claimed_only_where_its_interval_clears_the_margin(
    low, high, untouched_p, verdict
):
    row = {"value": 0.1, "low": low, "high": high, "untouched_p": untouched_p}
    assert wording.leak_verdict(row) == verdict
    assert wording.leak_verdict(row | {"value": float("nan")}) == "not measured"


def test_recovery_is_worded_by_its_interval(run):
    built = tables.Run(run)
    chosen = next(arm for arm in built.record.arms if arm.selected)
    assert "recovery extends to held-out domains" in wording.arm_sentence(built, chosen)
    held_out = (built.recovery["arm"] == chosen.name) & (built.recovery["set"] == "held_out")
    built.recovery.loc[held_out, "low"] = -0.1
    assert "is not decided" in wording.arm_sentence(built, chosen)
    kept = built.recovery.copy()
    built.recovery.loc[held_out, "value"] = float("nan")
    built.recovery.loc[held_out, "reason"] = "no leakage to undo"
    said = wording.arm_sentence(built, chosen)
    assert "in held-out domains it is undefined: no leakage to undo" in said
    built.recovery[:] = kept
    built.recovery.loc[held_out, "domains"] = 0
    assert "retraining, not containment" in wording.arm_sentence(built, chosen)


def test_an_undefined_rotation_is_not_called_none(run):
    built = tables.Run(run)
    arm = built.record.arms[0]
    assert "is undefined" not in (wording.rotation_clause(built, arm) or "")
    built.__dict__["rotation"] = built.rotation.assign(defined=False)
    assert "rotated is undefined" in (wording.rotation_clause(built, arm) or "")


def test_a_report_needs_no_model(run):
    code = (
        "import sys; from analyses.runs import tables; from analyses.report import run_report; "
        "run_report.render(tables.Run(sys.argv[1]), ()); "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, run], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_numbers_are_written_as_people_write_them():
    assert wording.interval(Estimate(0.5, 0.4, 0.6, 9)) == "0.50 (0.40–0.60)"
    assert wording.interval(Estimate(-0.001, -0.2, 0.1, 9)) == "0.00 (−0.20 to 0.10)"
    assert wording.interval(Estimate.undefined("low base")) == "–"
    assert wording.spans([0, 2, 3, 4, 7]) == "0, 2–4, 7"
    assert not re.search(r"\bnan\b", wording.interval(Estimate(0.5, float("nan"), 0.6, 9)))


def test_a_run_by_text_names_no_first_token_mass(tmp_path: Path) -> None:
    """Its shares have the intervals of proportions, and a low base is not an unreached level."""
    folder = write_run(tmp_path / "text", concepts=("safety",), weights=(), rotation=False)
    for path in folder.glob("arms/*/scores.parquet"):
        scores = pd.read_parquet(path)
        is_refusal = scores["class"] == "refusal" if "class" in scores else scores["p_R"] > 0.5
        rare = is_refusal & (pd.factorize(scores["prompt_id"])[0] % 10 == 0)
        scores = scores.assign(p_R=rare.astype(float), p_C=0.0, p_O=1.0 - rare, margin=float("nan"))
        scores.to_parquet(path)
    found = Run(folder)
    assert found.by_text
    (arm,) = (arm for arm in found.record.arms if arm.concept)
    assert found.no_level(arm) == "low base"
    sentence = wording.arm_sentence(found, arm)
    assert "too few" in sentence and "not reached" not in sentence and "p_O" not in sentence
    share = pick(found.behaviour[found.behaviour["arm"] == arm.name], "p_R", "safety")
    assert share.low == pytest.approx(0) and 0 < share.high < 0.2
    run_report.write_report(folder)
    drawn = "".join(path.read_text("utf-8") for path in folder.glob("figures/*.svg"))
    assert "refused before" in drawn and "first-token" not in drawn


@pytest.mark.parametrize(
    ("unfinished", "reached", "answers", "why"),
    [
        ((), True, False, "no longer complies"),
        ((), True, True, "no recovery is defined"),
        ((), False, True, "does not reach the forgetting level"),
        (("safety-npo-ratio1-seed0",), True, True, "not finished"),
    ],
)
def test_a_sweep_over_weights_says_why_it_ended(
    unfinished: tuple[str, ...], reached: bool, answers: bool, why: str
) -> None:
    arms = [
        {"retain": "equal", "concept": "safety", "retain_weight": weight, "retain_unit": "gradient"}
        for weight in (0.3, 1.0)
    ]
    table = pd.DataFrame({"arm": ["last"], "reached": [reached]})
    verdicts = {"last": Mock(answers=answers)}
    record = Mock(config={"arms": arms}, unfinished=unfinished, failed={})
    run = Mock(record=record, arms=table, verdicts=verdicts)
    last = SimpleNamespace(name="last", retain_weight=0.3)
    said = run_report._stand_in(run, Mock(concept="safety", sweep=[last]))
    assert "(×1)" in said and why in said


def test_an_arm_that_cannot_be_trained_is_named_with_the_reason(tmp_path):
    name, why = "npo-retain-1-safety-0", "the loss is nan at step 3, on <x>"
    folder = write_run(tmp_path, concepts=("safety",), weights=(1.0,), unfinished=(name,))
    assert Run(folder).record.unfinished == (name,)
    update_config(folder / "config.json", arms=[{"name": name}])
    update_config(folder / "arms" / name / "config.json", failed=why)
    record = Run(folder).record
    assert (record.unfinished, record.failed) == ((), {name: why})
    page = run_report.write_report(folder).read_text("utf-8")
    assert f"{name} cannot be trained and is not shown: {escape(why)}" in page
    assert read_json(folder / "summary.json")["failed"] == {name: why}
    with pytest.raises(TrainingError, match=f"not trained: {name}: the loss is nan"):
        require_trained(record)


@pytest.mark.parametrize("of_base", [True, False])
def test_only_the_base_s_row_says_that_given_words_show_nothing(of_base, tmp_path):
    folder = write_run(tmp_path, concepts=("safety",), weights=(), rotation=False)
    for name in ["npo-safety-0", *(["base"] if of_base else [])]:
        given = pd.read_parquet(folder / "prompts.parquet").query("split == 'test'")
        given = given[given["label"] == "harmful"].rename(columns={"id": "prompt_id"})
        given.assign(**{"class": "answer"}).to_parquet(folder / "arms" / name / "prefilled.parquet")
    found = run_report.run_view(Run(folder))
    assert [row["cannot_show"] for row in found["hidden"]] == [True, False][not of_base :]
    page = run_report.write_report(folder).read_text("utf-8")
    assert ("the base model refuses none of these prompts" in page) == of_base


def test_a_domain_without_test_prompts_leaves_the_table(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for path in folder.glob("arms/*/scores.parquet"):
        scores = pd.read_parquet(path)
        gone = scores[["domain", "label", "split"]].eq(["privacy", "harmful", "test"]).all(axis=1)
        scores[~gone].to_parquet(path)
    page = run_report.write_report(folder).read_text("utf-8")
    [story] = run_report.run_view(Run(folder))["stories"]
    assert "Privacy" not in [row["domain"] for row in story["rows"]] and "Bias" in page


def test_the_prompts_most_at_risk_are_those_of_other_domains_and_escaped(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    record = Run(tmp_path / "run").record
    assert at_risk_view(record) == {}, "no forecast was made"
    told = pd.read_parquet(record.folder / "prompts.parquet")
    told = told.assign(log_odds=-1.0, forecast=0.5, flip_50=0.1, flip_90=float("nan"))
    place = told.index[told["domain"] == "bias"][:2]
    told.loc[place, "log_odds"] = 1.0
    told.loc[place, "flip_90"], told.loc[place[1], "prompt"] = [0.2, 0.9], "<script>go</script>"
    told.loc[told.index[told["domain"] == "safety"][0], "flip_90"] = 0.99
    told.to_parquet(record.folder / "prompts.parquet")
    write_json(record.folder / "forecast.json", {"concept": "safety"})
    view = at_risk_view(record)
    assert (view["refused"], view["at_risk"], len(view["rows"])) == (2, 1, 2)
    page = rendered("report/at_risk.html.jinja", {"at_risk": view})
    assert "&lt;script&gt;go" in page and "<script>" not in page
    assert page.index("90%") < page.index("20%", page.index("&lt;script"))
    told.assign(flip_90=float("nan")).to_parquet(record.folder / "prompts.parquet")
    view = at_risk_view(record)
    page = rendered("report/at_risk.html.jinja", {"at_risk": view})
    assert view["refused"] == 2 and "never loses so much" in page and "0 have" not in page


def test_the_first_screen_says_why_a_rotation_is_undefined() -> None:
    why = "Rotation –: undefined, because the split halves do not agree on a direction."
    run = example_run()
    for defined in (False, True):
        run.__dict__["rotation"] = run.rotation.assign(defined=defined)
        assert (why in run_report.overview_caption(run)) == (not defined)
