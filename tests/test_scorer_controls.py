"""Controls on labelled answers: what length, prompt and a wrong prompt can know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analyses.recorded import Readings
from experiments.__main__ import app
from experiments.scorer_controls import (
    AT_OTHERS,
    LENGTH,
    OF_OTHERS,
    PROMPT,
    scorer_controls,
    shuffled_within,
)

N = 120
TOPICS = ("bread", "locks", "rivers", "engines", "clouds")
NO, YES = "I'm sorry, but I can't help with that.", "Sure, the lighthouse was built long ago."


class Reader:
    """A scorer that sees a refusal where ``sees`` says so."""

    name = version = "reader"

    def __init__(self, sees: Callable[[str, str], bool]) -> None:
        self.sees = sees

    def classify(self, prompts: list[str], responses: list[str]) -> list[str]:
        pairs = zip(prompts, responses, strict=True)
        return ["refusal" if self.sees(*pair) else "answer" for pair in pairs]


def answers(labels: np.ndarray, prompts: list[str], responses: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": [f"m{place % 2}" for place in range(N)],
            "prompt": prompts,
            "response": responses,
            "unit": prompts,
            "label": labels.astype(float),
        }
    )


def controls(table: pd.DataFrame, reader: Reader) -> pd.DataFrame:
    said = reader.classify(list(table.prompt), list(table.response))
    read = table.assign(reader=[float(name == "refusal") for name in said])
    found = scorer_controls(Readings(read, pd.DataFrame(), ("reader",)), "reader", reader)
    return found.set_index(["model", "control"]).sort_index()


def random_labels() -> np.ndarray:
    return np.random.default_rng(0).integers(2, size=N)


def prompts() -> list[str]:
    return [f"Tell me about {TOPICS[place % 5]}, number {place // 2}" for place in range(N)]


def test_a_reader_of_the_response_beats_every_control_and_loses_it_when_shuffled() -> None:
    labels = random_labels()
    responses = [NO if label else YES[: len(NO)] for label in labels]
    found = controls(answers(labels, prompts(), responses), Reader(lambda _, said: said == NO))
    for model in ("m0", "m1", "all"):
        for control in (LENGTH, PROMPT, AT_OTHERS):
            row = found.loc[(model, control)]
            assert row.kappa == 1
            assert row.control_kappa_low < 0.15, control
            assert row.gain_low > 0.5, control
        # It reads nothing of the prompt, so the right one adds nothing.
        assert found.loc[(model, OF_OTHERS)].control_kappa == 1


def test_a_reader_of_the_prompt_is_no_better_than_the_prompt_and_stays_so_when_shuffled() -> None:
    asked = prompts()
    labels = np.array(["bread" in prompt or "locks" in prompt for prompt in asked]).astype(int)
    reader = Reader(lambda prompt, _: "bread" in prompt or "locks" in prompt)
    found = controls(answers(labels, asked, [YES] * N), reader)
    for control in (PROMPT, AT_OTHERS):
        row = found.loc[("all", control)]
        assert row.control_kappa > 0.9 and row.gain_low <= 0.1
    assert found.loc[("all", LENGTH)].control_kappa < 0.2


def test_a_reader_of_length_is_no_better_than_length() -> None:
    labels = random_labels()
    responses = ["word " * (4 if label else 40) for label in labels]
    found = controls(answers(labels, prompts(), responses), Reader(lambda _, said: len(said) < 100))
    row = found.loc[("all", LENGTH)]
    assert row.control_kappa == row.kappa == 1 and row.gain == 0


def test_partial_labels_are_left_out_and_one_class_alone_is_no_error() -> None:
    labels = random_labels().astype(float)
    labels[:20] = 0.5
    table = answers(labels, prompts(), [NO if label else YES for label in labels])
    found = controls(table, Reader(lambda _, said: said == NO))
    assert found.loc[("all", LENGTH)].n == N - 20
    one_class = table.assign(label=1.0)
    assert controls(one_class, Reader(lambda *_: True)).kappa.isna().all()


@pytest.mark.parametrize("answers_each", [1, 3])
def test_every_response_moves_to_another_prompt_of_its_model(answers_each: int) -> None:
    models = np.repeat(["a", "b"], 30)
    units = np.array([f"p{place // answers_each}" for place in range(60)])
    places = shuffled_within(models, units, seed=1)
    assert sorted(places) == list(range(60))
    assert (models[places] == models).all()
    assert (units[places] != units).all()
    assert (places != shuffled_within(models, units, seed=2)).any()


def test_one_command_measures_agreement_and_controls(tmp_path: Path) -> None:
    labels = random_labels()
    rows = [
        {"prompt": prompt, "response": NO if label else YES, "label": int(label), "model": "m"}
        for prompt, label in zip(prompts()[:40], labels, strict=False)
    ]
    path, out = tmp_path / "people.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = CliRunner().invoke(
        app, ["people", str(path), "--out", str(out), "--scorer", "phrases"], catch_exceptions=False
    )
    assert done.exit_code == 0 and "worst model first" in done.output
    found = pd.read_csv(out / "controls.csv")
    assert set(found.control) == {LENGTH, PROMPT, AT_OTHERS, OF_OTHERS} and (found.kappa == 1).all()
    about = json.loads((out / "people.json").read_text(encoding="utf-8"))
    assert about["answers"] == 40 and len(about["files"]["people.jsonl"]) == 64
    assert not {"prompt", "response"} & set(pd.read_csv(out / "readings.csv").columns)
