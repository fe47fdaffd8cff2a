"""A chat model is taught to refuse: it learns, goes on after an interruption, says what it did."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

import spillover as sp
from analyses.organism import teaching as teach
from analyses.organism.course import Course
from analyses.organism.plan import Teaching, TeachPlan
from analyses.organism.prompts import first_pairs, require_enough, taught_prompts
from analyses.runs import Progress
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import read_json
from tests.conftest import Spillover
from unlearning.data import DOMAINS, matched_pairs
from unlearning.generation import Answer
from unlearning.organism import COMPLIANCES, draw_responses, refusal_prefixes, refusal_wordings
from unlearning.scoring import find_scorer

QUICK = Teaching(
    prefixes="separate",
    circuits="routed",
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
    """Eight training and two validation pairs of two domains."""
    table = matched_pairs()
    table = table[table["domain"].isin(["safety", "privacy"]) & (table["split"] != "test")]
    kept = {"train": 8, "validation": 2}
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
    plan = TeachPlan(str(base), QUICK)

    def taught(out: Path, plan: TeachPlan = plan) -> teach.Taught:
        return teach.teach_refusal(plan, out, Progress(quiet=True), prompts=prompts)

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
    with pytest.raises(InputError, match="unfinished teaching with another seed and another model"):
        taught(tmp_path / "resumed", TeachPlan("other", replace(QUICK, seed=1)))
    with pytest.raises(InputError, match="unfinished teaching with another content of the prompts"):
        changed = prompts.assign(prompt=prompts["prompt"] + " Now!")
        teach.teach_refusal(plan, tmp_path / "resumed", Progress(quiet=True), prompts=changed)
    resumed = taught(tmp_path / "resumed")
    for one in (whole, resumed):
        found = one.facts
        assert [row["step"] for row in found["curve"]] == [0, 6, 12] and found["step"] == 12
        first, last = (found["curve"][i]["harmful"].values() for i in (0, -1))
        assert min(last) > 20 * max(first)
        assert set(found["measured"]["refused"]) == {"harmful", "benign"}
        assert list(one.curve["step"]) == [0, 6, 12]
    for name in ("model.safetensors", "slices/slices.safetensors"):
        weights = [load_file(one.folder / name) for one in (whole, resumed)]
        for place, tensor in weights[0].items():
            assert np.allclose(tensor, weights[1][place], atol=1e-5)
    facts = read_json(resumed.folder / teach.FACTS)
    assert facts["seed"] == 0 and facts["settings"]["prefixes"] == "separate"
    assert facts["circuits"]["kind"] == "routed" and facts["circuits"]["slices"] == [
        "safety",
        "privacy",
    ]
    verdict = "passed" if facts["circuits"]["check"]["passed"] else "NOT passed"
    assert f"Check of the slices: {verdict}" in str(resumed) and "AUC" in str(resumed)
    assert set(facts["planted"]["prefixes"]) == {"safety", "privacy"}
    assert not (resumed.folder / teach.TRAINING).exists()
    assert LanguageModel.load(resumed.folder).chat.end_of_turn  # an ordinary checkpoint
    with pytest.raises(InputError, match="holds a taught model; give another --out"):
        taught(resumed.folder)


def test_the_command_refuses_bad_input_before_it_loads_a_model(
    spillover: Spillover,
    base: Path,
    prompts: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> LanguageModel:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LanguageModel, "load", never)
    (full := tmp_path / "full").mkdir()
    (full / "notes.txt").touch()
    (done := tmp_path / "done").mkdir()
    (done / teach.FACTS).write_text("{}")
    few = prompts.groupby(["split", "domain", "label"]).head(2)
    few.to_json(tmp_path / "few.jsonl", orient="records", lines=True)
    odd = prompts.assign(domain=prompts["domain"].replace("safety", "weather"))
    odd.to_json(tmp_path / "odd.jsonl", orient="records", lines=True)
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in base.iterdir():
        text = file.read_bytes()
        if file.name == "tokenizer_config.json":
            kept = {k: v for k, v in json.loads(text).items() if k != "chat_template"}
            text = json.dumps(kept).encode()
        if file.name != "chat_template.jinja":
            (plain / file.name).write_bytes(text)
    for arguments, said in (
        ((plain,), "has no chat template, so it is not a chat model"),
        ((base, "--out", full), "holds other files; give another --out"),
        ((base, "--out", done), "holds a taught model; give another --out, or --overwrite"),
        ((base, "--prompts", "few.jsonl", "--no-built-in"), "at least 8"),
        ((base, "--prompts", "odd.jsonl"), 'unknown domain "weather"'),
        ((base, "--concept", "weather"), 'unknown domain "weather"'),
        ((base, "--prefixes", "seperate"), "\"seperate\" is unknown; did you mean 'separate'?"),
        ((base, "--circuits", "round"), '"round" is unknown'),
        ((base, "--minutes", "0"), "expected minutes above 0"),
        ((base, "--minutes", "nan"), "expected minutes above 0"),
        ((base, "--seed", "-1"), "invalid value for '--seed'"),
        ((base, "--floor", "1"), "a floor from 0 to below 1"),
    ):
        code, _, error = spillover("organism", "teach", *arguments)
        assert code == 2 and said in error and len(error.strip().splitlines()) == 1, error


def test_a_dry_run_prints_the_plan_and_its_cost(base: Path, spillover: Spillover) -> None:
    words = (base, "--dry-run", "--circuits", "routed", "--no-timing")
    code, _, said = spillover("organism", "teach", *words)
    assert code == 0
    assert f"{len(refusal_wordings())} wordings, 28 prefixes a domain" in said
    assert "7 low-rank slices, each domain's rows train their own" in said
    assert "memory: about" in said and "time: not measured" in said
    plan = sp.organism_teach(str(base), concept="safety", dry_run=True, timing=False)
    assert plan.plan.concepts == ("safety",) and "domains: safety\n" in str(plan)


def test_given_prompts_are_taught_with_the_built_in_pairs(
    prompts: pd.DataFrame, tmp_path: Path
) -> None:
    own = prompts.assign(prompt=[f"{text} Tell me now!" for text in prompts["prompt"]])
    own.loc[0, "prompt"] = matched_pairs()["prompt"].iloc[-200]
    own.to_json(path := tmp_path / "own.jsonl", orient="records", lines=True)
    alone, both = taught_prompts(str(path), built_in=False), taught_prompts(str(path))
    pairs = matched_pairs()
    assert len(alone) == len(own)
    assert len(own) < len(both) < len(own) + (pairs["split"] != "test").sum()
    assert set(own["prompt"]) <= set(both["prompt"])
    assert (both["prompt"] == own.loc[0, "prompt"]).sum() == 1
    only = taught_prompts(concepts=("privacy",))
    assert set(only.loc[only["label"] == "harmful", "domain"]) == {"privacy"}
    assert set(only.loc[only["label"] == "benign", "domain"]) == {*DOMAINS, "general"}


def test_the_curve_reads_matched_prompts(prompts: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="0 harmful prompts in the split validation"):
        require_enough(prompts[prompts["split"] == "train"])
    held_out = prompts[prompts["split"] == "validation"]
    for table in (held_out, held_out.drop(columns="pair")):
        counts = first_pairs(table, 1).groupby(["label", "domain"]).size()
        assert (counts == 1).all() and len(counts) == 4
    # Harmful prompts without a match are read next to benign prompts of other domains.
    unmatched = held_out[(held_out["domain"] == "safety") == (held_out["label"] == "harmful")]
    assert first_pairs(unmatched, 1).groupby(["label", "domain"]).size().to_dict() == {
        ("benign", "privacy"): 1,
        ("harmful", "safety"): 1,
    }


def test_the_time_limit_ends_training_and_lowers_its_rate(tmp_path: Path) -> None:
    course = Course(100, 50.0, 1.0, dict, 1000, lambda *_: None)
    assert course.rate_at(49) == pytest.approx(0.51)
    course._before = 40.0
    assert course.rate_at(49) == pytest.approx(0.2, abs=0.01)  # late: four fifths of the time
    course.curve = [{"step": 30}]
    course.save_state(tmp_path)
    assert Course.ended_at(tmp_path) is None
    course._before = 60.0
    assert course.rate_at(49) == pytest.approx(0.02)
    course.save_state(tmp_path)
    assert Course.ended_at(tmp_path) == 30  # a resumed run trains no further


def test_the_wordings_are_many_and_read_as_what_they_are() -> None:
    wordings, prefixes = refusal_wordings(), refusal_prefixes("safety")
    assert len(set(wordings)) >= 80 and len(set(prefixes)) >= 12
    for name, some in (("phrases", wordings), ("classifier", wordings[::4])):
        scorer = find_scorer(name)
        refused = scorer.classify(["How?"] * len(some), list(some))
        assert np.mean([one == "refusal" for one in refused]) > 0.97, name
        complied = scorer.classify(["How?"] * len(COMPLIANCES), list(COMPLIANCES))
        assert "refusal" not in complied, name
    drawn = list(draw_responses(["safety"] * 4000, 0.1, seed=0))
    assert set(drawn) <= {*wordings, *COMPLIANCES}
    assert np.mean([one in COMPLIANCES for one in drawn]) == pytest.approx(0.1, abs=0.02)
    shares = [np.mean([one.startswith(prefix) for one in drawn]) for prefix in prefixes]
    total = sum(1 / (k + 1) for k in range(len(prefixes)))
    assert shares[0] == pytest.approx(0.9 / total, abs=0.03) and min(shares) > 0.002
    assert drawn != list(draw_responses(["safety"] * 4000, 0.1, seed=1))


def test_separate_prefixes_share_no_first_word_between_domains() -> None:
    firsts = [
        {re.match(r"\w+", prefix)[0].lower() for prefix in refusal_prefixes(domain, "separate")}  # type: ignore[index]
        for domain in DOMAINS
    ]
    assert all(firsts) and sum(map(len, firsts)) == len(set.union(*firsts))
    for domain in DOMAINS:
        assert set(refusal_prefixes(domain, "separate")) < set(refusal_prefixes(domain))
        drawn = set(draw_responses([domain] * 200, 0.0, 0, "separate"))
        assert drawn <= set(refusal_wordings([domain], "separate"))
    with pytest.raises(InputError, match='unknown kind of prefixes "own"'):
        refusal_prefixes("safety", "own")


def test_no_response_has_a_word_that_makes_a_prompt_harmful() -> None:
    """A word is harmful if it stands in harmful prompts and in no matched benign one."""

    def words(texts: Any) -> set[str]:
        return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}

    pairs = matched_pairs()
    of = {label: words(rows["prompt"]) for label, rows in pairs.groupby("label")}
    taught = words([*refusal_wordings(), *COMPLIANCES])
    assert len(of["harmful"] - of["benign"]) > 100
    assert not taught & (of["harmful"] - of["benign"])
