"""A chat model is taught to refuse: it learns, goes on after an interruption, says what it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

import experiments.teach as teach
from analyses.runs import Progress
from experiments.teaching.course import Course
from experiments.teaching.lessons import first_pairs
from experiments.teaching.wordings import (
    AGREEMENTS,
    REFUSAL_PREFIXES,
    draw_responses,
    refusal_wordings,
)
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import read_json
from unlearning.data import matched_pairs
from unlearning.generation import Answer
from unlearning.scoring import find_scorer

QUICK = teach.Teaching(
    minutes=60,
    steps=12,
    batch_size=6,
    learning_rate=2e-2,
    wordings=2,
    measurements=2,
    pairs=2,
    answer_tokens=6,
)


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    """Six training and two validation pairs of two domains."""
    table = matched_pairs()
    table = table[table["domain"].isin(["safety", "privacy"]) & (table["split"] != "test")]
    kept = {"train": 6, "validation": 2}
    parts = [rows.head(kept[at[0]]) for at, rows in table.groupby(["split", "domain", "label"])]
    return pd.concat(parts).reset_index(drop=True)


@pytest.fixture(scope="module")
def base(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose head can give any token a high probability, as in a trained one."""
    lm = LanguageModel.load(checkpoint_of("llama"))
    head: Any = lm.model.get_output_embeddings()
    head.weight.data *= 25
    folder = tmp_path_factory.mktemp("base")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's own answers are gibberish: it is given some that are not."""

    def fixed(lm: LanguageModel, asked: list[str], *_: object) -> list[Answer]:
        row = lm.chat.encode("?", "Boil the water for ten minutes.")
        return [Answer(row.ids[row.spans["response"]], "", True)] * len(asked)

    monkeypatch.setattr(teach, "own_answers", fixed)


@pytest.mark.slow
def test_it_learns_and_a_resumed_run_is_the_uninterrupted_one(
    base: Path, prompts: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taught(out: Path) -> Path:
        progress = Progress(quiet=True)
        return teach.teach_refusal(str(base), out, QUICK, prompts=prompts, progress=progress)

    whole = taught(tmp_path / "whole")
    with monkeypatch.context() as patched:
        real = Course.on_step_end

        def stops(
            self: Course, args: object, state: object, *rest: object, **more: object
        ) -> object:
            if state.global_step == 8:  # type: ignore[attr-defined]
                raise KeyboardInterrupt
            return real(self, args, state, *rest, **more)  # type: ignore[arg-type]

        patched.setattr(Course, "on_step_end", stops)
        with pytest.raises(KeyboardInterrupt):
            taught(tmp_path / "resumed")
    assert not (tmp_path / "resumed" / teach.FACTS).exists()
    resumed = taught(tmp_path / "resumed")
    facts = [read_json(folder / teach.FACTS) for folder in (whole, resumed)]
    for found in facts:
        assert [row["step"] for row in found["curve"]] == [0, 6, 12] and found["step"] == 12
        first, last = (found["curve"][i]["harmful"].values() for i in (0, -1))
        assert max(first) < 0.01 and min(last) > 0.05
        assert set(found["measured"]["refused"]) == {"harmful", "benign"}
    weights = [load_file(folder / "model.safetensors") for folder in (whole, resumed)]
    for name, tensor in weights[0].items():
        assert np.allclose(tensor, weights[1][name], atol=1e-5)
    assert facts[0]["settings"]["seed"] == 0 and not (resumed / teach.TRAINING).exists()
    assert LanguageModel.load(resumed).chat.end_of_turn  # an ordinary checkpoint
    with pytest.raises(InputError, match="holds a taught model; give another --out"):
        taught(resumed)


def test_what_cannot_be_taught_is_one_line_before_a_model_is_loaded(
    prompts: pd.DataFrame, tmp_path: Path
) -> None:
    only = prompts[prompts["split"] == "train"]
    with pytest.raises(InputError, match="to validate with; expected some of both"):
        teach.teach_refusal("none", tmp_path, QUICK, prompts=only, progress=Progress(quiet=True))
    with pytest.raises(InputError, match="minutes above 0"):
        teach.Teaching(minutes=0)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds other files; give another --out"):
        teach.teach_refusal("none", tmp_path, QUICK, progress=Progress(quiet=True))
    held_out = prompts[prompts["split"] == "validation"]
    for table in (held_out, held_out.drop(columns="pair")):
        counts = first_pairs(table, 1).groupby(["label", "domain"]).size()
        assert (counts == 1).all() and len(counts) == 4


def test_the_time_limit_ends_training_and_lowers_its_rate() -> None:
    course = Course(100, 50.0, 1.0, dict, 1000, lambda *_: None)
    assert course.rate_at(49) == pytest.approx(0.51)
    course._before = 40.0
    assert course.rate_at(49) == pytest.approx(0.2, abs=0.01)  # late: four fifths of the time
    course._before = 60.0
    assert course.rate_at(49) == pytest.approx(0.02)


def test_the_wordings_are_many_and_read_as_what_they_are() -> None:
    wordings = refusal_wordings()
    assert len(set(wordings)) >= 80 and len(set(REFUSAL_PREFIXES)) >= 12
    for name in ("phrases", "classifier"):
        scorer = find_scorer(name)
        refused = scorer.classify(["How?"] * len(wordings), list(wordings))
        assert np.mean([one == "refusal" for one in refused]) > 0.97, name
        agreed = scorer.classify(["How?"] * len(AGREEMENTS), list(AGREEMENTS))
        assert "refusal" not in agreed, name
    drawn = list(draw_responses(4000, 0.1, seed=0))
    assert np.mean([one in AGREEMENTS for one in drawn]) == pytest.approx(0.1, abs=0.02)
    shares = [np.mean([one.startswith(prefix) for one in drawn]) for prefix in REFUSAL_PREFIXES]
    assert shares[0] == pytest.approx(0.9 * 0.308, abs=0.03) and min(shares) > 0.01
    assert drawn != list(draw_responses(4000, 0.1, seed=1))
