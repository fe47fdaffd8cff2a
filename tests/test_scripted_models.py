"""Trained chat models of every kind, from end to end: the tree where it separates, else the text.

The tree must be used, and rank new prompts, wherever refusals and answers part within 8 tokens.
Where nothing separates them, the study ends with its tables and a line that says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch

from analyses.report import run_report
from analyses.runs import Run
from interp.model import LanguageModel
from interp.store import read_json
from tests.conftest import Spillover
from tests.scripted_models import SCRIPTS, prompts, save_scripted_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_pictures")]

DEPTHS = {"0 shared": 1, "2 shared": 3, "6 shared": 7}
NO_REFUSAL, ALL_REFUSED = "never refuses", "always refuses"
# Read from text, with a part of the reason.
ALIKE = "answers to benign prompts begin with the same words"
BY_TEXT = {
    **dict.fromkeys(("inseparable", "opens a thought", "answers with a thought"), ALIKE),
    ALL_REFUSED: "80 refusals and ",
}
# Thinking models, and the prefix that ends their thought at once.
ENDERS = {"opens a thought": "</think>", "answers with a thought": "<think></think>"}
LABELS = ("harmful", "benign")
SHORT = ("--max-steps", "2", "--batch-size", "8", "--lora-rank", "4", "--learning-rate", "1e-3")


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``scripted(name)``: folder of that model, trained once."""
    return cache(
        lambda name: save_scripted_model(SCRIPTS[name], tmp_path_factory.mktemp("scripted"))
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, what it printed, and its folder."""

    code: int
    out: str
    err: str
    folder: Path


@pytest.fixture
def run(
    spillover: Spillover, scripted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """Runs a command on a scripted model; figures have tests of their own."""
    monkeypatch.setattr(run_report, "write_run_figures", lambda _run, **_: ())
    table = prompts().drop(columns=["noun", "verb"])

    def command(name: str, model: str, *options: str) -> Ended:
        table.to_json("prompts.jsonl", orient="records", lines=True)
        given = (
            "--prompts",
            "prompts.jsonl",
            "--max-new-tokens",
            "32",
            "--out",
            name,
            "--no-timing",
        )
        return Ended(*spillover(name, scripted(model), *given, *options), Path(name).absolute())

    return command


def study(run: Callable[..., Ended], model: str, *options: str) -> Ended:
    return run("study", model, "--concept", "safety", "--no-control", *SHORT, *options)


def readout_of(ended: Ended) -> dict[str, object]:
    return dict(read_json(ended.folder / "arms" / "base" / "openers.json"))


def of_base(ended: Ended, label: str) -> pd.Series:
    """Classes of the base model's answers to prompts of a label."""
    table = pd.read_parquet(ended.folder / "arms" / "base" / "responses.parquet")
    return table.loc[table["label"] == label, "class"]


@pytest.mark.parametrize("model", DEPTHS)
def test_shared_opening_words_are_read_through(model: str, run: Callable[..., Ended]) -> None:
    ended = study(run, model)
    assert ended.code == 0, ended.err
    readout = readout_of(ended)
    assert not readout["why_not"] and "from the text of answers" not in ended.err
    assert {len(leaf) for leaf in (*readout["refusal"], *readout["compliance"])} == {DEPTHS[model]}
    assert set(readout["aucs"]) == {"panel:no-reader", "classifier"}
    assert min(readout["aucs"].values()) >= 0.95 and readout["covered"] == 1
    table = Run(ended.folder).leakage
    for quantity in ("drop", "log_odds_drop"):
        assert table.loc[table["quantity"] == quantity, "value"].notna().all()
    base = Run(ended.folder).record.base.scores
    harmful = base["label"] == "harmful"
    assert base.loc[harmful, "p_R"].min() > 0.5 > base.loc[~harmful, "p_R"].max()
    (arm,) = Run(ended.folder).record.arms
    rates = read_json(ended.folder / "arms" / arm.name / "panel.json")["rates"]["harmful"]
    said = arm.scores[arm.scores["kept"] & (arm.scores["label"] == "harmful")]
    assert rates == sorted(rates)
    assert rates[1] == pytest.approx((said["class"] == "refusal").mean())
    told = read_json(ended.folder / "summary.json")["base"]["readout"]["arms_panel"]
    assert any(arm.name in line for line in told)


@pytest.mark.parametrize("model", ENDERS)
def test_a_thinking_model_has_a_tree_once_its_thought_is_ended(
    model: str, run: Callable[..., Ended]
) -> None:
    ended = study(run, model, "--response-prefix", ENDERS[model])
    assert ended.code == 0, ended.err
    readout = readout_of(ended)
    assert not readout["why_not"] and min(readout["aucs"].values()) >= 0.95
    assert set(of_base(ended, "harmful")) == {"refusal"}
    assert set(of_base(ended, "benign")) == {"answer"}


@pytest.mark.parametrize("model", BY_TEXT)
def test_what_no_prefix_separates_is_read_from_text(model: str, run: Callable[..., Ended]) -> None:
    ended = study(run, model)
    assert ended.code == 0, ended.err
    readout = readout_of(ended)
    assert BY_TEXT[model] in readout["why_not"] and not readout["refusal"]
    assert f"without log-odds: {readout['why_not']}" in ended.err.replace("\n", " ")
    # The reason names the response prefix that would give a tree.
    ender = f'--response-prefix "{ENDERS.get(model)}"'
    assert (ender in readout["why_not"]) == (model in ENDERS)
    # What a thought says is not the answer.
    refused = {label: (of_base(ended, label) == "refusal").mean() for label in LABELS}
    assert refused["harmful"] > 0.95
    assert refused["benign"] == 1 if model == ALL_REFUSED else refused["benign"] < 0.05
    table = Run(ended.folder).leakage
    assert table.loc[table["quantity"] == "text_drop", "value"].notna().all()
    unread = table[table["quantity"] == "log_odds_drop"]
    assert unread["value"].isna().all() and unread["reason"].str.contains("read from text").all()
    assert readout["why_not"][:40] in (ended.folder / "report.html").read_text(encoding="utf-8")


def test_a_model_that_never_refuses_has_its_table_and_a_reason(run: Callable[..., Ended]) -> None:
    ended = study(run, NO_REFUSAL)
    assert ended.code == 2 and "error: nothing to unlearn: safety has 0 refusals" in ended.err
    assert "low base: the model refuses 0% of the harmful training prompts" in ended.err
    assert "the model gave 0 refusals and 80 answers" in readout_of(ended)["why_not"]
    base = read_json(ended.folder / "summary.json")["base"]
    assert {rate["value"] for rate in base["refusal_rate"].values()} == {0.0}
    assert (ended.folder / "report.html").is_file() and len(Run(ended.folder).cosine)


def test_sampled_refusals_are_unlearned_and_marked_low_base(run: Callable[..., Ended]) -> None:
    ended = study(run, "refuses in samples")
    assert ended.code == 0, ended.err
    assert "low base: the model refuses 0% of the harmful training prompts" in ended.err
    assert not readout_of(ended)["why_not"] and readout_of(ended)["sampling"]
    table = Run(ended.folder).leakage
    assert table["low_base"].all()
    text = table[table["quantity"] == "text_drop"]
    assert text["value"].isna().all() and text["reason"].notna().all()


@pytest.mark.parametrize("model", ["6 shared", "inseparable"])
def test_predict_reads_the_tree_or_the_text(model: str, run: Callable[..., Ended]) -> None:
    ended = run("predict", model, "--concept", "safety")
    assert ended.code == 0 and "privacy" in ended.out, ended.err
    assert ("read from the text of answers" in ended.err) == (model in BY_TEXT)


def test_containment_goes_on_by_text(
    spillover: Spillover, scripted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three domains, because one must be retained and one held out."""
    monkeypatch.setattr(run_report, "write_run_figures", lambda _run, **_: ())
    table = prompts(times=2).drop(columns=["noun", "verb"])
    table.loc[(table["domain"] == "privacy") & (table.index % 2 == 0), "domain"] = "bias"
    table.to_json("prompts.jsonl", orient="records", lines=True)
    code, out, err = spillover(
        "contain", scripted("inseparable"), "--concept", "safety", "--prompts", "prompts.jsonl",
        "--methods", "equal,kernel", "--splits", 1, "--left-out", 1, "--examples", "8",
        "--retain-weight", "0.3", "--max-new-tokens", 32, "--out", "contained", *SHORT,
    )  # fmt: skip
    assert code == 0, err
    said = err.replace("\n", " ")
    assert "left out, because they need refusal log-odds: kernel" in said
    assert "without log-odds: " in said and ALIKE in said
    found = read_json(Path("contained") / "containment" / "containment.json")
    assert {row["method"] for row in found["methods"]} == {"equal"}
    assert found["advice"][0] in out and (Path("contained") / "report.html").is_file()
    record = Run(Path("contained")).record
    assert {arm.concept for arm in record.arms} == {"safety"}
    assert all(arm.scores["margin"].isna().all() for arm in record.arms)


def test_two_models_are_compared_by_text_and_not_explained(
    run: Callable[..., Ended], spillover: Spillover, scripted: Callable[[str], Path]
) -> None:
    """An after-model that lost a part of its refusals."""
    after = LanguageModel.load(scripted("inseparable"))
    with torch.no_grad():
        for weight in after.layers[-1].parameters():
            weight *= 0.7
    for part in (after.model, after.tokenizer):
        part.save_pretrained("after")
    ended = run("compare", "inseparable", "after")
    assert ended.code == 0, ended.err
    assert "without log-odds: " in ended.err.replace("\n", " ")
    (arm,) = Run(ended.folder).record.arms
    assert arm.scores["margin"].isna().all() and arm.scores["p_R"].notna().all()
    assert len(Run(ended.folder).rotation) and (ended.folder / "report.html").is_file()
    code, _, err = spillover("explain", ended.folder)
    assert code == 2 and "explain needs refusal log-odds" in err
    assert "its report has what needs none" in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("model", "refused"), [(NO_REFUSAL, "0.00"), (ALL_REFUSED, "1.00"), ("opens a thought", "1.00")]
)
def test_an_evaluation_without_log_odds_has_a_table_and_says_why(
    model: str, refused: str, run: Callable[..., Ended]
) -> None:
    ended = run("evaluate", model)
    said = ended.out.replace("\n", " ")
    assert ended.code == 0, ended.err
    assert f"the model refuses {refused} " in said and "No refusal log-odds: " in said
    assert (f'--response-prefix "{ENDERS.get(model)}"' in said) == (model in ENDERS)
