"""A study whose refusals and answers begin alike goes on by the text of answers."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analyses.explain.explaining import explain_run
from analyses.report.readout import readout_view
from analyses.runs import BASE, Progress, Run
from analyses.study import baseline, organism_plan, prefixes_of, run_study
from analyses.study.readout import (
    LearnedReadout,
    checked_readout,
    is_current,
    missing_sides,
    read_prefixes,
    require_prefixes,
    sides_of,
    with_other_reading,
)
from interp.errors import InputError
from interp.store import read_json, write_json
from unlearning.deflections import Sampling
from unlearning.organism import shipped
from unlearning.refusal import ResponsePrefixes, find_prefixes
from unlearning.scoring import find_scorer


def answered(shared: int = 0) -> pd.DataFrame:
    """Twenty refused and twenty answered prompts, whose responses share their first tokens."""
    opening = list(range(10, 10 + shared))
    rows = []
    for number in range(40):
        harmful = number % 2 == 0
        rows.append(
            {
                "id": str(number),
                "prompt": f"prompt {number}",
                "domain": "safety" if number % 4 < 2 else "bias",
                "label": "harmful" if harmful else "benign",
                "split": "train" if number < 30 else "validation",
                "ids": [*opening, 1 if harmful else 2, number],
                "response": "I'm sorry, but I can't help with that." if harmful else "Sure: boil.",
                "class": "refusal" if harmful else "answer",
            }
        )
    return pd.DataFrame(rows)


def held_out(responses: pd.DataFrame, log_odds: float) -> pd.DataFrame:
    """Scores in which every refusal has these log-odds, and every answer none."""
    margin = np.where(responses["class"] == "refusal", log_odds, 0.0)
    table = responses[["id", "split"]].rename(columns={"id": "prompt_id"})
    table = table.assign(margin=margin, scorer="phrases")
    return table[table["split"] == "validation"]


@pytest.mark.parametrize("shared", [0, 2, 6])
def test_a_separable_model_is_read_by_its_tree(shared: int) -> None:
    responses = answered(shared)
    prefixes = prefixes_of(responses)
    assert {len(leaf) for leaf in (*prefixes.refusal, *prefixes.compliance)} == {shared + 1}
    other = find_scorer("classifier")
    told = with_other_reading(responses, other)
    found = checked_readout(prefixes, told, held_out(responses, 3.0), other)
    assert found.prefixes == prefixes and not found.why_not and found.covered == 1.0
    assert found.aucs == {"phrases": 1.0, "classifier": 1.0}
    assert found.shares == {"refusal": [pytest.approx(1)], "compliance": [pytest.approx(1)]}


def test_log_odds_that_rank_wrongly_are_not_used(tmp_path: Path) -> None:
    responses = answered()
    found = checked_readout(prefixes_of(responses), responses, held_out(responses, -3.0), None)
    assert found.prefixes is None and "AUC of 0.00" in found.why_not and not found.shares
    # An older run kept the shares of the tree that it did not use.
    path = tmp_path / "arms" / BASE / "openers.json"
    write_json(path, found.to_json(str) | {"shares": {"refusal": [1.0], "compliance": [1.0]}})
    view = readout_view(SimpleNamespace(folder=tmp_path, arms=()))  # type: ignore[arg-type]
    assert view is not None and view["kind"] == "text" and view["prefixes"] == []
    with pytest.raises(InputError, match="explain needs refusal log-odds.* AUC of 0.00"):
        require_prefixes(path.parent, "explain")


def test_stray_answers_are_no_class() -> None:
    responses = answered()
    benign = responses["class"] == "answer"
    for count in (7, 8):
        some = pd.concat([responses[~benign], responses[benign].head(count)])
        if count == 8:
            assert prefixes_of(some).compliance == ((2,),)
        else:
            with pytest.raises(InputError, match="15 refusals and 7 answers.* at least 8 prompts"):
                prefixes_of(some)


def test_a_readout_learned_from_other_samples_is_learned_again(tmp_path: Path) -> None:
    path, few, many = tmp_path / "openers.json", Sampling(4), Sampling(8)
    assert not is_current(path, few)
    for used, same, other in ((asdict(few), True, False), (None, True, True)):
        write_json(path, LearnedReadout(None, "why", sampling=used).to_json(str))
        assert (is_current(path, few), is_current(path, many)) == (same, other)
    write_json(path, read_json(path, ()) | {"version": 1})
    assert not is_current(path, few)


def test_a_readout_of_few_answers_is_learned_again_once_samples_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "other_reader", lambda _: None)
    monkeypatch.setattr(baseline, "_masses", lambda *_: pd.DataFrame())
    monkeypatch.setattr(baseline, "thought_note", lambda *_: "")
    none, eight = Sampling(0), Sampling(8)
    context = SimpleNamespace(
        scorer=None, plan=SimpleNamespace(sampling=none), reference=SimpleNamespace(chat=None)
    )
    few, path = answered().head(14), tmp_path / "openers.json"
    found, _ = baseline._readout(context, few, "")  # type: ignore[arg-type]
    assert "at least 8 prompts" in found.why_not
    write_json(path, found.to_json(str))
    assert is_current(path, none) and not is_current(path, eight)
    # Without training prompts there is nothing to sample for, and refusal is read from text.
    context.plan.sampling = eight
    found, _ = baseline._readout(context, few.assign(split="test"), "")  # type: ignore[arg-type]
    assert found.prefixes is None and found.why_not


def test_rows_on_which_two_scorers_disagree_teach_nothing() -> None:
    responses = answered().assign(other_class=lambda table: table["class"])
    train = responses["split"] == "train"
    stray = responses.index[train & (responses["class"] == "refusal")][:3]
    responses.loc[stray, "other_class"] = "answer"
    refusals, answers = sides_of(responses)
    assert not refusals.index.isin(stray).any() and len(refusals) == 12 and len(answers) == 15
    # A scorer that agrees with nothing knows another language, and is not asked.
    foreign = responses.assign(other_class="other")
    assert [len(side) for side in sides_of(foreign)] == [15, 15]
    assert missing_sides(foreign) == ["harmful", "benign"]


@pytest.mark.usefixtures("without_pictures")
def test_a_study_goes_on_by_text(
    tmp_path: Path, small_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inseparable(*given: object, **named: object) -> ResponsePrefixes:
        with pytest.raises(InputError) as caught:
            find_prefixes([[1, 2]], [[1, 2]])
        raise caught.value

    monkeypatch.setattr("analyses.study.readout.find_prefixes", inseparable)
    plan = organism_plan(str(shipped()), ("safety",), seeds=(0,), control=False)
    (arm,) = plan.arms
    short = replace(arm, training=replace(arm.settings, max_steps=3))
    plan = replace(plan, arms=(short,), prompts=str(small_world))
    said: list[str] = []

    class Said(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    page = run_study(plan, tmp_path, Said(quiet=True)).read_text(encoding="utf-8")
    assert any("read from the text of answers" in line for line in said)
    assert "read from the text of answers" in page
    base = tmp_path / "arms" / "base"
    assert read_prefixes(base / "openers.json") is None
    assert "begin with the same words" in read_json(base / "openers.json")["why_not"]
    run = Run(tmp_path)
    scores = run.record.arms[0].scores
    assert set(scores["p_R"].unique()) <= {0.0, 1.0} and scores["margin"].isna().all()
    before = scores[(scores["step"] == 0) & (scores["label"] == "harmful")]
    assert before["p_R"].mean() > 0.9 and sorted(scores["step"].unique()) == [0, 1, 2, 3]
    assert read_json(tmp_path / "summary.json")["base"]["readout"]["kind"] == "text"
    assert run.leakage["drop"].notna().any() if "drop" in run.leakage else len(run.leakage)
    with pytest.raises(InputError, match="explain needs refusal log-odds"):
        explain_run(tmp_path)
    again: list[str] = []
    said = again
    run_study(plan, tmp_path, Said(quiet=True))
    assert any("already done" in line for line in again)
