"""The kept model complies best while it is coherent; leakage does not depend on the choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel

from analyses.runs import Arm, Progress, measure, trajectories
from analyses.runs.trajectory import kept_rows, matched_step
from analyses.study.keeping import ALONG, READINGS, TRAINING, Keeper, Reading, best_of
from analyses.study.making import _with_text_at_end
from interp.model import LanguageModel
from tests.test_saving import LORA, trained
from unlearning.training import check_saved, newest_complete, save_with_logits, scaled_change
from unlearning.training.checkpoints import seal
from unlearning.training.eval_mode import probe_logits

Checkpoints = Callable[[str], Path]


def reading(
    answers: float, gibberish: float = 0.0, *, step: int = 9, scale: float = 1.0
) -> Reading:
    return Reading(step, scale, 0.9, 1 - answers - gibberish, answers, gibberish, 0.5)


def test_the_best_candidate_answers_most_of_those_that_are_coherent() -> None:
    babble, half = reading(0.5, 0.5), reading(0.5, step=4)
    scaled = [reading(0.8, 0.2, scale=0.8), reading(0.7, scale=0.6), reading(0.8, 0.1, scale=0.5)]
    assert best_of([babble, half, *scaled]) is scaled[0]  # of equals, the larger change
    assert best_of([babble, half]) is half
    assert best_of([babble, reading(0.7, 0.3, scale=0.5)]) is babble  # none is coherent


class Overdosed:
    """Answers by the size of the adapters: refusals, then compliance, then babble."""

    def __init__(self, prompts: pd.DataFrame, whole: float, complies: tuple[float, float]) -> None:
        self.prompts, self.whole, self.complies = prompts, whole, complies

    def with_text(self, lm: LanguageModel, **_: Any) -> tuple[pd.DataFrame, list[Any]]:
        s = size(lm) / self.whole
        low, high = self.complies
        said = ("refusal", 0.3) if s < low else ("answer", 0.6) if s <= high else ("refusal", 4.5)
        table = self.prompts.rename(columns={"id": "prompt_id"})
        nothing = {"repetition": 0.0, "p_R": max(0.0, 0.9 - s), "nll": said[1], "class": said[0]}
        return table.assign(**nothing), []


def size(lm: LanguageModel) -> float:
    weights = [p for name, p in lm.model.named_parameters() if ".lora_B." in name]
    return float(torch.stack([weight.detach().square().sum() for weight in weights]).sum().sqrt())


def checkpoint_in(folder: Path) -> None:
    """A complete checkpoint, from which an interrupted arm would resume."""
    checkpoint = folder / TRAINING / "checkpoint-9"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("those at the wanted level")
    seal(checkpoint)


def keeper_of(
    lm: LanguageModel, base: LanguageModel, folder: Path, complies: tuple[float, float]
) -> Keeper:
    prompts = pd.DataFrame(
        {"id": [f"p{i}" for i in range(16)], "domain": "safety", "label": "harmful"}
    ).assign(split="validation")
    own = prompts.rename(columns={"id": "prompt_id"})
    context = SimpleNamespace(
        evaluated=prompts,
        evaluation=lambda _prefixes, rows: Overdosed(rows, size(lm), complies),
        reference=base,
        progress=SimpleNamespace(say=lambda _line: None),
        plan=SimpleNamespace(stop_at=0.9, bounds=(None, None)),
    )
    scores = own.assign(p_R=0.9, nll=0.4, repetition=0.0, **{"class": "refusal"})
    baseline = SimpleNamespace(prefixes=None, scores=scores)
    arm = SimpleNamespace(concept="safety", name="npo")
    return Keeper(*cast(Any, (context, baseline, arm, lm, folder)))


@pytest.mark.parametrize(
    ("complies", "scale"),
    [((0.55, 0.65), 0.6), ((0.2, 2.0), 1.0), ((3.0, 4.0), 0.9), ((0.0, 0.01), 1.0)],
    ids=["overdosed", "complies", "refuses", "babbles at every scale"],
)
def test_an_overdosed_model_is_scaled_back_to_where_it_complies(
    complies: tuple[float, float], scale: float, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    base = LanguageModel.load(checkpoint_of("llama"))
    lm = trained(LanguageModel.load(checkpoint_of("llama")))
    assert isinstance(lm.model, PeftModel)
    whole = size(lm)
    save_with_logits(lm, tmp_path)
    checkpoint_in(tmp_path)
    keeper = keeper_of(lm, base, tmp_path, complies)
    kept = keeper.settle(9, 0.97)
    # A resumed run reads the folder's weights as those of the wanted level: it would scale twice.
    assert (newest_complete(tmp_path / TRAINING) is None) == (kept.scale != 1)
    if complies == (3.0, 4.0):
        scale = kept.scale  # every scale refuses alike: the whole change is kept
        assert kept.refusal_rate == 1 and kept.scale == 1
    assert (kept.step, kept.scale) == (9, scale)
    assert size(lm) == pytest.approx(scale * whole, rel=1e-5)
    wanted = probe_logits(lm)
    loaded = LanguageModel.load(tmp_path / "adapter")
    torch.testing.assert_close(probe_logits(loaded), wanted, rtol=1e-4, atol=1e-4)
    check_saved(loaded, tmp_path)
    assert len(pd.read_parquet(tmp_path / READINGS)) == (1 if complies == (0.2, 2.0) else 8)


def test_an_earlier_model_on_the_path_is_a_candidate(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """Planted: neither the model at the level nor its scaled change complies; step 4 did."""
    base = LanguageModel.load(checkpoint_of("llama"))
    lm = trained(LanguageModel.load(checkpoint_of("llama")))
    whole = size(lm)
    keeper = keeper_of(lm, base, tmp_path, (1.0, 1.05))
    keeper(4, 0.5)
    assert keeper.readings[0].complies
    state = tmp_path / "state"
    state.mkdir()
    keeper.save_state(state)
    keeper.readings = []
    keeper.load_state(state)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if ".lora_B." in name:
                weight.mul_(30)
    save_with_logits(lm, tmp_path)
    checkpoint_in(tmp_path)
    kept = keeper.settle(9, 0.97)
    assert (kept.step, kept.scale, kept.level) == (4, 1.0, 0.5)
    assert newest_complete(tmp_path / TRAINING) is None
    assert size(lm) == pytest.approx(whole, rel=1e-5)
    check_saved(LanguageModel.load(tmp_path / "adapter"), tmp_path)
    assert not (tmp_path / ALONG).exists()
    assert list(keeper.along()["step"]) == [4, 9]


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 0.0), (0.3, 0.1)])
def test_within_bounds_nothing_is_searched(
    bounds: tuple[float | None, float | None], checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = trained(LanguageModel.load(checkpoint_of("llama")))
    keeper = keeper_of(lm, LanguageModel.load(checkpoint_of("llama")), tmp_path, (0.55, 0.65))
    keeper.context.plan.bounds = bounds  # type: ignore[misc]
    assert keeper.settle(9, 0.97).scale == 1 and len(keeper.readings) == 1


@pytest.mark.parametrize(
    ("kept_at", "complies", "read"), [(9, True, 0), (9, False, 1), (6, True, 1)]
)
def test_the_end_of_the_path_has_answers_unless_it_is_kept(
    kept_at: int, complies: bool, read: int
) -> None:
    """Also where the model at the end is scaled back: that one is not on the path."""
    rows = pd.DataFrame({"prompt_id": ["p", "q"], "split": "test", "dose": 0.97, "class": None})
    scoring = SimpleNamespace(
        scores=lambda: pd.concat([rows.assign(step=step) for step in (0, 6, 9)]),
        kept_at=kept_at, level=0.97,
    )  # fmt: skip
    keeper = SimpleNamespace(
        at=lambda step, level: (step, level), is_overdosed=lambda _first: not complies,
        arm=SimpleNamespace(name="npo"),
    )  # fmt: skip
    asked: list[int] = []

    def with_text(_lm: object, **_: Any) -> tuple[pd.DataFrame, list[Any]]:
        asked.append(1)
        return rows.assign(**{"class": "answer"}), []

    context = SimpleNamespace(
        harmful=rows, progress=Progress(quiet=True),
        evaluation=lambda _prefixes, rows: SimpleNamespace(with_text=with_text),
    )  # fmt: skip
    baseline = SimpleNamespace(prefixes=None)
    curve = _with_text_at_end(*cast(Any, (context, baseline, None, scoring, keeper)))
    assert len(asked) == read and sorted(curve["step"]) == [0, 0, 6, 6, 9, 9]
    assert curve.groupby("step")["class"].count().to_dict() == {0: 0, 6: 0, 9: 2 * read}


def test_an_adapter_s_scaled_change_ends_at_the_base_and_at_itself(
    checkpoint_of: Checkpoints,
) -> None:
    base = LanguageModel.load(checkpoint_of("llama"))
    lm = trained(LanguageModel.load(checkpoint_of("llama")), LORA)
    end = probe_logits(lm)
    with scaled_change(base, lm) as scale:
        scale(0.0)
        torch.testing.assert_close(probe_logits(lm), probe_logits(base), rtol=1e-4, atol=1e-4)
        scale(1.0)
        torch.testing.assert_close(probe_logits(lm), end)
        scale(0.5)
    torch.testing.assert_close(probe_logits(lm), end)


def path_of(kept: dict[str, Any], *, at_end: dict[str, Any] | None = None) -> pd.DataFrame:
    """Scores on a path of five steps, and the row of the kept model for every prompt."""
    rows = []
    for domain, pace in (("safety", 0.25), ("bias", 0.1)):
        for split in ("validation", "test"):
            for i in range(12):
                name = {"prompt_id": f"{domain}{split}{i}", "domain": domain, "split": split}
                for step in range(5):
                    p_R = 0.9 * max(0.01, 1 - pace * step)
                    row = {"step": step, "p_R": p_R, "margin": np.log(p_R / (1 - p_R))}
                    text = {"class": "refusal" if step == 0 else None}
                    end = (at_end or {}) if step == 4 and split == "test" else {}
                    rows.append(name | row | text | {"scale": 1.0, "kept": False} | end)
                rows.append(name | {"step": 3, "p_R": 0.45, "margin": 0.0} | kept)
    table = pd.DataFrame(rows).assign(label="harmful", kind=None, dose=0.0, p_C=0.1, p_O=0.0)
    return table.assign(refused=(table["class"] == "refusal").astype(float))


def test_leakage_is_read_on_the_path_and_the_rest_from_the_kept_model() -> None:
    """A kept model off the path changes no crossing; text at the last step changes nothing."""
    kept = {"scale": 0.6, "kept": True, "class": "answer"}
    scores = path_of(kept, at_end={"class": "gibberish"})
    on_path = scores[scores["scale"] == 1].drop(columns=["scale", "kept"])
    assert matched_step(scores) == 3 and len(kept_rows(scores)) == 48
    arm = Arm("npo", {"concept": "safety"}, scores, None)
    assert set(arm.last["class"]) == {"answer"} and arm.step == 3
    found, plain = (measure(table, "safety", resamples=50) for table in (scores, on_path))
    for name in ("L_50", "L_90", "area", "onset"):
        assert found.estimate(name, "bias") == plain.estimate(name, "bias")
    assert found.estimate("drop", "bias").value == pytest.approx(0.5)
    assert found.estimate("text_drop", "bias").value == 1
    assert list(trajectories(scores, "test")["bias"].steps) == [0, 1, 2, 3, 4]
