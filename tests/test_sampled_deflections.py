"""Where greedy refusals are too few, more are sampled; a domain that still lacks them is named."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.contain import Design, run_containment
from analyses.runs import Progress, read_run
from analyses.study import (
    StudyPlan,
    deflections_of,
    establish,
    organism_plan,
    run_study,
    study_context,
)
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import read_json
from unlearning.deflections import FEWEST_DEFLECTIONS, Sampling, respond, with_sampled_refusals
from unlearning.organism import Grammar, load_world, shipped

Checkpoints = Callable[[str], Path]
TARGET, RETAINED, NEVER = "safety", "privacy", "bias"


class Sometimes:
    """Calls a fixed third of all texts refusals, whatever they say."""

    name, version = "sometimes", "1"

    def classify(self, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        return [
            "answer" if complies(*pair) else "refusal"
            for pair in zip(prompts, responses, strict=True)
        ]


def complies(*texts: str) -> bool:
    return zlib.crc32("".join(texts).encode()) % 3 > 0


def asked(n: int = 12) -> pd.DataFrame:
    rows = {"id": [f"p{i}" for i in range(n)], "prompt": [f"How do I {i}?" for i in range(n)]}
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def lm(checkpoint_of: Checkpoints) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("qwen2"))


def sampled(lm: LanguageModel, fewest: int, samples: int = 8, **more: Any) -> pd.DataFrame:
    scorer = Sometimes()
    greedy = respond(lm, asked(), scorer, max_new_tokens=3)
    return with_sampled_refusals(
        lm, asked(), greedy[greedy["class"] == "refusal"], scorer, Sampling(samples),
        fewest=fewest, max_new_tokens=3, **more,
    )  # fmt: skip


def test_sampled_refusals_are_refusals_and_differ_in_ids_and_in_text(lm: LanguageModel) -> None:
    found = sampled(lm, 20)
    assert len(found) >= 20 and set(found["class"]) == {"refusal"}
    assert found["id"].is_unique and set(found["prompt_id"]) <= set(asked()["id"])
    assert not found.duplicated(["prompt", "response"]).any()
    assert not found.assign(ids=found["ids"].map(tuple)).duplicated(["prompt", "ids"]).any()
    assert not any(map(complies, found["prompt"], found["response"]))


def test_rounds_end_with_enough_and_more_rounds_only_add_rows(lm: LanguageModel) -> None:
    none, some, more = (sampled(lm, fewest) for fewest in (0, 10, 20))
    assert len(none) < 10 <= len(some) <= len(more) and not none["id"].str.contains("sample").any()
    assert list(more["id"][: len(some)]) == list(some["id"])
    assert sampled(lm, 20, batch_size=2)["id"].tolist() == more["id"].tolist()
    assert len(sampled(lm, 10**6, samples=2)) < len(asked()) * 3  # no endless search


def test_a_sampling_that_cannot_differ_is_refused() -> None:
    for wrong in ({"samples": -1}, {"temperature": 0.0}, {"temperature": float("nan")}):
        with pytest.raises(InputError, match="expected"):
            Sampling(**wrong)  # type: ignore[arg-type]
    assert Sampling(samples=0, temperature=0.0).line == "greedy refusals only"


# In a study


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    table = load_world(shipped()).prompts(train=40, validation=4, test=4)
    path = tmp_path / "prompts.jsonl"
    kept = table["domain"].isin([TARGET, RETAINED, NEVER, "general"])
    table[kept].to_json(path, orient="records", lines=True)
    found = organism_plan(
        str(shipped()), (TARGET,), seeds=[0], retain={TARGET: (RETAINED, NEVER)}, weights=(1.0,)
    )
    [arm] = [arm for arm in found.arms if arm.retain]
    arms = [replace(arm, training=replace(arm.settings, max_steps=1))]
    return replace(found, prompts=str(path), arms=tuple(arms))


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A model whose first answers refuse a third of the prompts, and in one domain none."""

    def set_up(never: str) -> None:
        grammar, met = Grammar.classify, set()

        def classify(self: Grammar, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
            kinds = grammar(self, prompts, responses)
            for i, prompt in enumerate(prompts):
                if domains[prompt] == never or (complies(prompt) and prompt not in met):
                    kinds[i] = "answer"
            met.update(prompts)
            return kinds

        table = load_world(shipped()).prompts(train=40, validation=4, test=4)
        domains = dict(zip(table["prompt"], table["domain"], strict=True))
        monkeypatch.setattr(Grammar, "classify", classify)

    return set_up


@pytest.mark.usefixtures("without_report")
def test_a_study_goes_on_without_the_domain_that_has_too_few(
    plan: StudyPlan, tmp_path: Path, weak: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    weak(NEVER)
    run_study(plan, tmp_path / "run", Progress())
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "left out: " in line]
    assert len(lines) == 1 and f"left out: {NEVER} has 0 refusals of 40" in lines[0]
    assert "low base: the model refuses " in said and f"prompts of {TARGET}" in said
    record = read_run(tmp_path / "run")
    assert {arm.name for arm in record.arms} == {arm.name for arm in plan.arms}
    retained = [arm["retain"] for arm in read_json(tmp_path / "run" / "config.json")["arms"]]
    assert [RETAINED] in retained and not any(NEVER in (one or ()) for one in retained)
    held = pd.read_parquet(tmp_path / "run" / "arms" / "base" / "deflections" / f"{TARGET}.parquet")
    assert len(held) >= FEWEST_DEFLECTIONS and (held["id"] != held["prompt_id"]).any()
    asked_again = (tmp_path / "run" / "cache" / "sampled.jsonl").read_text().count("\n")
    assert asked_again > len(held)  # refusals or not, all answers are kept
    folder = tmp_path / "run" / "arms" / "base" / "deflections"
    held.assign(key="of other settings").to_parquet(folder / "toxicity.parquet")
    run_study(plan, tmp_path / "run", Progress(quiet=True))
    assert not (folder / "toxicity.parquet").exists() and (folder / f"{TARGET}.parquet").exists()


@pytest.mark.usefixtures("without_report")
def test_a_study_whose_only_target_has_too_few_keeps_its_base(
    plan: StudyPlan, tmp_path: Path, weak: Callable[[str], None]
) -> None:
    weak(TARGET)
    with pytest.raises(
        InputError, match=f"nothing to unlearn: {TARGET} has 0 .*--deflections"
    ) as end:
        run_study(plan, tmp_path / "run", Progress(quiet=True))
    assert "\n" not in str(end.value)
    assert (tmp_path / "run" / "arms" / "base" / "DONE").is_file()
    assert not read_json(tmp_path / "run" / "config.json")["arms"]


@pytest.mark.usefixtures("without_report")
def test_containment_whose_target_has_too_few_keeps_its_base_and_manifest(
    plan: StudyPlan, tmp_path: Path, weak: Callable[[str], None]
) -> None:
    weak(TARGET)
    settings = plan.arms[0].settings
    splits = (((RETAINED,), (NEVER,)),)
    design = Design(TARGET, ("equal",), (), (1.0,), splits, settings)
    context = study_context(
        replace(plan, arms=tuple(design.everything())), tmp_path / "run", Progress(quiet=True)
    )
    with pytest.raises(InputError, match=f"nothing to unlearn: {TARGET} has 0"):
        run_containment(context, design)
    assert (tmp_path / "run" / "arms" / "base" / "DONE").is_file()
    assert (tmp_path / "run" / "manifest.json").is_file()


def test_deflections_are_sampled_and_scored_once(
    plan: StudyPlan, tmp_path: Path, weak: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    weak(NEVER)
    context = study_context(plan, tmp_path / "run", Progress(quiet=True))
    baseline = establish(context)
    first = deflections_of(context, baseline, TARGET)
    monkeypatch.setattr(Grammar, "classify", lambda *_: pytest.fail("scored again"))
    again = deflections_of(context, baseline, TARGET)
    assert first["id"].tolist() == again["id"].tolist()
    assert list(map(list, first["ids"])) == list(map(list, again["ids"]))
