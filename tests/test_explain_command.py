"""``spillover explain``: a planted cause is found again in a finished run, and written down."""

from __future__ import annotations

import shutil
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from analyses.explain import cause_sentence, explaining, mediation
from analyses.explain.explaining import _caveat
from analyses.explain.localising import forwards, place_tables
from analyses.explain.mediation import Explanation, Subject
from analyses.explain.sizes import default_sizes
from analyses.runs import Progress
from analyses.study import run_study
from analyses.study.plan import compare_plan
from interp.causes import CAUSES, PLAYERS, CauseVerdict, Undone
from interp.causes.undoing import Shares
from interp.model import LanguageModel
from interp.patching import between_models
from interp.readout import log_odds
from interp.statistics import Estimate
from interp.store import read_json
from tests.conftest import Spillover, leave_out_report
from tests.more_families import GROUPED, random_model
from tests.patched_models import PROMPTS, changed, some_log_odds
from tests.planted_causes import Ground, Plant
from tests.test_causes import worths
from unlearning.organism import load_world, shipped
from unlearning.refusal import ResponsePrefixes

PLANTED = Plant("offset", "bias", 1, 0.9, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The organism compared with one in which an offset was planted, on two domains."""
    folder = tmp_path_factory.mktemp("explain")
    ground = Ground.load(shipped())
    after = ground.after(PLANTED)
    after.model.save_pretrained(folder / "after")
    after.tokenizer.save_pretrained(folder / "after")
    some = ground.prompts[ground.prompts["domain"].isin(["bias", "privacy"])]
    some = some.groupby(["domain", "label", "split"]).head(24)
    some.drop(columns="compliance").to_parquet(folder / "prompts.parquet")
    plan = compare_plan(
        str(shipped()), str(folder / "after"), concept=None, scorer="grammar", max_new_tokens=8,
        prompts=str(folder / "prompts.parquet"), model_options={}, command="",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        leave_out_report(patched)
        run_study(plan, folder / "run", Progress(quiet=True)).touch()
    return folder / "run"


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_the_planted_cause_is_found_in_a_run(run: Path, spillover: Spillover) -> None:
    code, out, err = spillover("explain", run, "--draws", 20, "--place-draws", 19)
    assert code == 0, err
    (arm,) = (run / "causes").iterdir()
    found = read_json(arm / "bias.json")
    assert (found["cause"], found["layer"]) == (PLANTED.kind, PLANTED.layer)
    assert found["sentence"] in out
    assert found["sentence"].endswith("."), "all of a small model is examined, without a caveat"
    plan = read_json(arm / "manifest.json", ())["plan"]
    assert plan["expected"]["seconds"] > 0 and plan["actual"]["seconds"] > 0
    assert sum(share["value"] for share in found["shares"].values()) == pytest.approx(1)
    assert found["ceiling"] == pytest.approx(1, abs=1e-4)  # nothing changed after that layer
    weights = pd.read_csv(arm / "bias-weights.csv")
    restored = weights.loc[weights["fraction"].idxmax()]
    assert (restored["layer"], restored["component"]) == (PLANTED.layer, "mlp")
    assert restored["fraction"] == pytest.approx(1, abs=1e-4)
    assert restored["stands_out"] and weights["stands_out"].sum() == 1
    shares = pd.read_csv(arm / "bias-shares.csv")
    assert set(shares["player"]) == set(PLAYERS)
    assert len(shares) == 5 * len(PLAYERS)
    assert {"residual_out", "attention_out", "mlp_out"} == set(
        pd.read_csv(arm / "bias-states.csv")["component"]
    )
    assert "<svg" in (arm / "bias.svg").read_text(encoding="utf-8")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert found["sentence"] in unescape(page), "a run that has a report has it written again"


@pytest.mark.slow
def test_what_cannot_be_explained_is_said_in_a_line(
    run: Path, spillover: Spillover, tmp_path: Path
) -> None:
    code, _, err = spillover("explain", run, "--arm", "nobody")
    assert (code, "no finished arm nobody" in err) == (2, True)
    code, _, err = spillover("explain", run, "--dry-run")
    assert code == 0 and "bias lost " in err
    assert "all layers" in err and "work: about" in err and "time: about" in err
    code, _, err = spillover("explain", run, "--place-draws", 10)
    assert (code, "give at least 19" in err) == (2, True)
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    config = read_json(copied / "config.json")
    config["model"] = str(run.parent / "after")
    pd.Series(config).to_json(copied / "config.json")
    code, _, err = spillover("explain", copied)
    assert (code, "have changed since the run" in err) == (2, True)


def _work(prompts: pd.DataFrame) -> Any:
    """What explains a run of these prompts, without its models."""
    chat = SimpleNamespace(fingerprint={}, tokenization="")
    return SimpleNamespace(
        base=SimpleNamespace(configuration="c", chat=chat, n_layers=2), fingerprint="f",
        sizes=default_sizes(1, 2), progress=Progress(quiet=True), prompts=prompts, seed=0,
        record=SimpleNamespace(folder=Path("run")), prefixes=ResponsePrefixes(((1,),), ((2,),)),
    )  # fmt: skip


def test_an_explanation_is_kept_for_one_configuration_of_the_model_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work, keys = _work(pd.DataFrame()), []
    monkeypatch.setattr(explaining, "_lost", lambda *_: {"bias": 1.0})
    monkeypatch.setattr(explaining, "_said_before", lambda _, key: keys.append(key) or {"a": 1})
    for configuration in ("one", "other", "one"):
        after = SimpleNamespace(fingerprint=lambda: "w", configuration=configuration)
        monkeypatch.setattr(explaining, "after_of", lambda *_, after=after: after)
        explaining._Work.explained(work, SimpleNamespace(name="arm"))
    assert keys[0] == keys[2] != keys[1]


def test_a_loss_with_too_few_prompts_is_named_and_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = load_world(shipped()).prompts(train=8, validation=4, test=4)
    left = world.query("domain == 'bias' and label == 'harmful' and split == 'validation'")
    work = _work(world.drop(left.index))
    after = SimpleNamespace(fingerprint=str, configuration="")
    monkeypatch.setattr(explaining, "after_of", lambda *_: after)
    monkeypatch.setattr(explaining, "_lost", lambda *_: {"bias": 2.34})
    arm = SimpleNamespace(name="arm", concept="privacy")
    (row,) = explaining._Work.explained(work, arm)
    assert (row["domain"], row["lost_nats"]) == ("bias", 2.34)
    assert row["sentence"].startswith("Bias lost 2.3 nats of refusal log-odds when privacy was")
    assert "not explained: fewer than 8 harmful or benign" in row["sentence"]
    monkeypatch.setattr(explaining, "_lost", lambda *_: {})
    (none,) = explaining._Work.explained(work, arm)
    assert none["sentence"] == "arm: no domain lost more than 1 nat of refusal log-odds."


def test_what_is_examined_are_prompts_that_trained_nothing_and_their_near_duplicates() -> None:
    world = load_world(shipped()).prompts(train=8, validation=4, test=4)
    prompts = world[world["domain"].isin(["bias", "privacy"])].reset_index(drop=True)
    alike = prompts["domain"].eq("bias") & prompts["label"].eq("harmful")
    alike &= prompts["split"].eq("test")
    prompts["group"] = np.where(alike, "one family", None)
    lm = LanguageModel.load(shipped())
    subject = Subject.of(lm, lm, log_odds([5]), prompts, layers=[1])
    for domain in ("bias", "privacy"):
        rows = prompts[(prompts["domain"] == domain) & (prompts["label"] == "harmful")]
        rows = rows[rows["split"] != "train"]
        assert sorted(subject.texts[domain]) == sorted(rows["prompt"])
        assert len(subject.changes[domain].base.positive) == len(rows) == 8
        groups = dict(zip(subject.texts[domain], subject.groups[domain], strict=True))
        for prompt, own, name in zip(rows["prompt"], rows["id"], rows["group"], strict=True):
            assert groups[prompt] == (own if pd.isna(name) else name)
    assert len(set(subject.groups["bias"])) == 5
    assert len(set(subject.groups["privacy"])) == 8
    repeated = pd.concat([prompts, prompts.assign(id=prompts["id"] + " again")], ignore_index=True)
    twice = Subject.of(lm, lm, log_odds([5]), repeated.drop(columns="group"), layers=[1])
    assert [len(twice.groups["bias"]), len(set(twice.groups["bias"]))] == [16, 8]


@pytest.mark.parametrize(
    ("multiplier", "components"), [(1.0, {"attention_out", "mlp_out"}), (0.5, set())]
)
def test_components_that_no_trace_finds_are_left_out_and_the_sentence_says_so(
    multiplier: float, components: set[str]
) -> None:
    lm = random_model("GraniteConfig", {**GROUPED, "residual_multiplier": multiplier})
    runs = between_models(lm, changed(lm, lambda name: ".1.mlp" in name), PROMPTS)
    done: list[int] = []
    _, states = place_tables(runs, some_log_odds(lm), layers=[1], controls=0, progress=done.append)
    assert set(states["component"]) == {"residual_out"} | components
    assert sum(done) == sum(forwards(runs, [1], 0, 64))
    found = SimpleNamespace(
        undone=[SimpleNamespace(layer=1)], states=states, prompts=len(PROMPTS),
        at_layer=SimpleNamespace(values=np.zeros((1, len(PROMPTS)))),
    )  # fmt: skip
    said = _caveat(cast(Explanation, found), 1, None)
    assert ("attention_out, mlp_out" in said) != bool(components)


@pytest.mark.parametrize("cause", CAUSES)
def test_the_leading_cause_is_held_against_its_own_controls(
    cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its random moves are as long as its own edit; another's would be longer or shorter."""
    restored = {name: 0.01 * (number + 1) for number, name in enumerate(CAUSES)}
    stitched = SimpleNamespace(to_dataframe=lambda **_: pd.DataFrame())
    foreign: list[str] = []
    for name, stub in {
        "undo": lambda *_, **__: (Undone(0, worths({cause: 3.0, "remainder": 0.2})),),
        "control_effects": lambda *_, cause, draws, **__: np.full(draws, restored[cause]),
        "foreign_effect": lambda *_, cause, **__: foreign.append(cause) or 0.0,
        "between_models": lambda *_: None,
        "place_tables": lambda *_, **__: (pd.DataFrame(), pd.DataFrame()),
        "stitching_of": lambda _: stitched,
    }.items():
        monkeypatch.setattr(mediation, name, stub)
    subject = SimpleNamespace(
        base=None, after=None, readout=None, layers=(0,), texts={"bias": ["a", "b"]},
        changes={"bias": None, "privacy": None}, groups={"bias": ["a", "b"]},
    )  # fmt: skip
    found = mediation.explain_domain(cast(Subject, subject), "bias", draws=20)
    assert found.verdict.cause == cause
    assert found.verdict.control_high == pytest.approx(restored[cause])
    assert {name: values[0] for name, values in found.controls.items()} == restored
    assert foreign == ([] if cause == "routing" else [cause])


@pytest.mark.parametrize(
    ("cause", "word"),
    [
        ("rotation", "orientation"),
        ("gain", "length"),
        ("offset", "shift"),
        ("routing", "later layers use"),
        (None, "do not decide"),
    ],
)
def test_a_sentence_says_what_was_found(cause: str | None, word: str) -> None:
    share = {name: Estimate(0.8, 0.7, 0.9, 12) for name in PLAYERS}
    verdict = CauseVerdict(1, 3.2, Shares(share, share, share), cause, "too close to call", 0.2)
    said = cause_sentence("medical_legal", "safety", verdict)
    assert said.startswith(
        "Medical/Legal lost 3.2 nats of refusal log-odds when safety was unlearned"
    )
    assert word in said
    assert ("80%" in said) is bool(cause)
