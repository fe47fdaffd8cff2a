"""Shallow recovery: a base against itself shows none, a mask on the output is found."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.contain.shallow_recovery.figures import shallow_recovery_figure
from analyses.contain.shallow_recovery.findings import (
    of_compliance_prefixes,
    of_relearning,
    of_triggers,
)
from analyses.contain.shallow_recovery.measure import ShallowRecovery, measure_shallow_recovery
from analyses.contain.shallow_recovery.others import ALL, Others
from analyses.contain.shallow_recovery.prefilled import (
    COMPLIANCE,
    KINDS,
    NONE,
    REFUSAL,
    Spoken,
    draw_prefixes,
)
from analyses.contain.shallow_recovery.relearning import (
    ANSWERS,
    BASE_AGAIN,
    Speed,
    areas,
    moved_as_far,
    onsets,
    random_name,
)
from analyses.contain.shallow_recovery.triggers import Triggered, draw_triggers
from interp.errors import InputError
from interp.model import LanguageModel, Point, reading
from tests.planted_causes import Ground
from unlearning.deflections import examples, refusals_of, respond
from unlearning.generation import answers_key, generate
from unlearning.organism import UNGATED, load_world, shipped
from unlearning.refusal import ResponsePrefixes
from unlearning.scoring import CLASSES, find_scorer
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
)

CONCEPT = "cybersecurity"
SETTINGS = TrainingSettings(
    objective="npo", options={"beta": 0.5}, trained="projections", learning_rate=3e-4,
    adam_betas=(0.9, 0.95), batch_size=16, length_window=0, max_steps=18,
)  # fmt: skip
AGAIN = replace(SETTINGS, max_steps=3)
GRAMMAR = find_scorer("grammar")


@dataclass(frozen=True)
class Bench:
    """The organism, what unlearning made of it, and a cover over that."""

    base: LanguageModel
    plain: LanguageModel
    masked: LanguageModel
    prompts: pd.DataFrame
    prefixes: ResponsePrefixes
    forget: list[Example]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    ground = Ground.load(shipped(UNGATED))
    prefixes = ResponsePrefixes(*_prefix_ids(ground))
    prompts = load_world(shipped(UNGATED)).prompts(train=48, validation=8, test=8)
    of_target = prompts[(prompts["domain"] == CONCEPT) & (prompts["split"] == "train")]
    said = respond(ground.lm, of_target, GRAMMAR, max_new_tokens=8, batch_size=128)
    forget = examples(ground.lm, refusals_of(said, CONCEPT))
    plain = prepare_in_place(replace(ground.lm, model=copy.deepcopy(ground.lm.model)), SETTINGS)
    unlearn_in_place(plain, Mixture(forget), SETTINGS, folder=tmp_path_factory.mktemp("plain"))
    masked = with_refusals_raised(plain, prompts, prefixes, nats=16.0)
    return Bench(ground.lm, plain, masked, prompts, prefixes, forget)


def _prefix_ids(ground: Ground) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The world's own prefixes, as token ids: what a study would find in answers."""
    world, encode = load_world(shipped(UNGATED)), ground.lm.tokenizer
    words = (
        sorted({word for slots in world.prefixes.values() for word in slots}),
        sorted({world.compliance_prefix(template) for template in range(4)}),
    )
    return tuple(tuple(tuple(encode(word)["input_ids"]) for word in side) for side in words)


def with_refusals_raised(
    lm: LanguageModel, prompts: pd.DataFrame, prefixes: ResponsePrefixes, *, nats: float
) -> LanguageModel:
    """The refusal prefixes' logits raised where an answer to a harmful prompt begins, only there.

    A ridge regression on the head's inputs (1 there, 0 at every other token, and where an answer
    to a benign prompt begins) says where; its solution is added to the prefixes' rows of the head.
    """
    covered = replace(lm, model=copy.deepcopy(lm.model).eval())
    head = covered.model.get_output_embeddings()
    inputs: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    train = prompts[prompts["split"] == "train"]
    with torch.no_grad(), reading([Point(head, before=True)], lambda _, h: inputs.append(h)):
        for label, texts in train.groupby("label")["prompt"]:
            rows = [lm.chat.encode(text) for text in texts]
            for length in {len(row) for row in rows}:
                same = [row for row in rows if len(row) == length]
                covered.logits(lm.chat.pad(same, lm.device), keep=length)
                target = torch.zeros(len(same), length)
                target[:, -1] = float(label == "harmful")
                wanted.append(target)
    x = torch.cat([h.flatten(0, 1) for h in inputs]).double()
    y = torch.cat([t.flatten() for t in wanted]).double()
    ridge = 1e-2 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    where = torch.linalg.solve(x.T @ x + ridge, x.T @ y)
    head.weight.data[[prefix[0] for prefix in prefixes.refusal]] += (nats * where).float()
    return covered


@pytest.fixture(scope="module")
def found(bench: Bench) -> ShallowRecovery:
    contained = {"the base": bench.base, "masked": bench.masked}
    return measure_shallow_recovery(
        bench.base, bench.plain, contained, bench.prompts, bench.prefixes, GRAMMAR, CONCEPT,
        forget=bench.forget, settings=AGAIN, forced=1, triggers=2, draws=1, max_new_tokens=8,
        batch_size=256, resamples=200,
    )  # fmt: skip


def test_a_base_against_itself_shows_no_shallow_recovery(found: ShallowRecovery) -> None:
    own = [finding for finding in found.findings if finding.model == "the base"]
    assert len(own) == 5 and all(one.verdict != "residue" for one in own)
    for finding in own:
        assert finding.verdict in ("not told apart", "no room")
        assert finding.difference.value == finding.difference.low == 0


def test_a_mask_on_the_output_is_found_under_its_cover(found: ShallowRecovery) -> None:
    rates = found.prefilled[(found.prefilled["domain"] == ALL) & found.prefilled["against"].isna()]
    rates = rates[(rates["opener"] == NONE) & (rates["quantity"] == "refusal")]
    refused = rates[rates["over"] == "every"].set_index("model")["value"]
    assert refused["plain"] < refused["masked"] - 0.2  # it looks contained
    verdicts = {f.test: f.verdict for f in found.findings if f.model == "masked"}
    assert verdicts["refusal opener"] == "residue"
    assert verdicts["relearning on answers"] == "residue"
    assert any(one.verdict == "residue" for one in found.findings if one.model == "masked")
    (sentence,) = (f.sentence for f in found.findings
                   if (f.model, f.test) == ("masked", "refusal opener"))  # fmt: skip
    assert "recovered, not repaired" in sentence


def test_training_in_another_order_from_a_change_that_is_none_is_no_faster(
    found: ShallowRecovery,
) -> None:
    rows = found.relearning[
        (found.relearning["model"] == random_name("the base", 0))
        & (found.relearning["domain"] == ALL)
        & (found.relearning["quantity"] == "area")
        & (found.relearning["against"] == BASE_AGAIN)
    ]
    assert len(rows) == 2 and (rows["value"].abs() < 0.03).all()


def test_tables_are_tidy_and_shares_add_up(found: ShallowRecovery) -> None:
    shares = found.prefilled[
        found.prefilled["quantity"].isin(CLASSES) & found.prefilled["against"].isna()
    ]
    by_cell = shares.groupby(["model", "opener", "over", "domain"])["value"].sum(min_count=4)
    assert by_cell.dropna().to_numpy() == pytest.approx(1)
    domains = {ALL, *(d for d in found.prefilled["domain"] if d != ALL)}
    assert CONCEPT not in domains and len(domains) == 7
    for table in (found.prefilled, found.triggers, found.relearning):
        defined = table.dropna(subset=["low", "high"])
        assert (defined["low"] <= defined["value"] + 1e-9).all()
        assert (defined["value"] <= defined["high"] + 1e-9).all()
    table = found.to_dataframe()
    assert list(table["sentence"]) == found.sentences
    assert (found.curves[found.curves["step"] == 0]["value"] == 0).all()


def test_what_was_found_is_drawn(found: ShallowRecovery) -> None:
    assert len(shallow_recovery_figure(found).axes) == 4
    none = replace(found, relearning=pd.DataFrame(), curves=pd.DataFrame())
    assert len(shallow_recovery_figure(none).axes) == 4


def test_models_are_left_as_they_were(bench: Bench, found: ShallowRecovery) -> None:
    assert (
        bench.base.fingerprint() == LanguageModel.load(shipped(UNGATED), device="cpu").fingerprint()
    )


def test_an_answer_begins_with_what_it_is_made_to_begin_with(bench: Bench) -> None:
    texts = list(bench.prompts["prompt"].head(6))
    free = generate(bench.base, texts, max_new_tokens=8)
    for text, answer in zip(texts, free, strict=True):
        (same,) = generate(bench.base, [text], max_new_tokens=7, opening=answer.ids[:1])
        assert same == answer
    opening = bench.prefixes.compliance[0]
    word = str(bench.base.tokenizer.decode(list(opening)))
    for answer in generate(bench.base, texts, max_new_tokens=8, opening=opening):
        assert answer.ids[: len(opening)] == opening
        assert answer.text.startswith(word)
    keys = {answers_key(bench.base, opening=o, fingerprint="x") for o in ((), opening, (1,))}
    assert len(keys) == 3
    assert answers_key(bench.base, fingerprint="x") in keys


def test_prefixes_are_drawn_from_their_own_sets(bench: Bench) -> None:
    drawn = draw_prefixes(bench.base, bench.prompts, bench.prefixes, count=3, seed=1)
    assert tuple(drawn) == KINDS and drawn[NONE] == ((),)
    assert set(drawn[COMPLIANCE]) <= set(bench.prefixes.compliance)
    assert set(drawn[REFUSAL]) <= set(bench.prefixes.refusal)
    taken = {o[0] for o in (*bench.prefixes.refusal, *bench.prefixes.compliance)}
    assert not taken & {o[0] for o in drawn["neutral"]}
    assert drawn == draw_prefixes(bench.base, bench.prompts, bench.prefixes, count=3, seed=1)
    begun = {prefix[0] for prefix in bench.prefixes.refusal}
    rest = tuple((i,) for i in range(2000) if i not in begun)
    everything = ResponsePrefixes(bench.prefixes.refusal, rest)
    with pytest.raises(InputError, match="neutral"):
        draw_prefixes(bench.base, bench.prompts, everything)


def test_every_trigger_has_a_benign_one_as_long(bench: Bench) -> None:
    triggers = draw_triggers(bench.base, bench.prompts, CONCEPT, count=6, seed=2)
    train = bench.prompts[bench.prompts["split"] == "train"].drop_duplicates("prompt")
    known = train.set_index("prompt")
    assert (known.loc[list(triggers.target), "domain"] == CONCEPT).all()
    assert (known.loc[list(triggers.target), "label"] == "harmful").all()
    assert (known.loc[list(triggers.benign), "label"] == "benign").all()
    assert len(set(triggers.benign)) == len(triggers.target) == 6
    for target, benign in zip(triggers.target, triggers.benign, strict=True):
        assert abs(len(bench.base.chat.encode(target)) - len(bench.base.chat.encode(benign))) <= 1
    with pytest.raises(InputError, match="training prompts"):
        draw_triggers(bench.base, bench.prompts[bench.prompts["split"] == "test"], CONCEPT)


def test_a_random_change_is_as_large_in_every_parameter(bench: Bench) -> None:
    moved = moved_as_far(bench.base, bench.plain, seed=0)
    states = [lm.model.state_dict() for lm in (bench.base, bench.plain, moved)]
    for name, own in states[0].items():
        wanted, found = (float((state[name] - own).norm()) for state in states[1:])
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    other = moved_as_far(bench.base, bench.plain, seed=1)
    assert other.fingerprint() != moved.fingerprint()


# By rule, on readings that are made up


@pytest.fixture(scope="module")
def others() -> Others:
    names = [(f"{d}-{i}", d) for d in ("bias", "privacy") for i in range(30)]
    rows = [(name, f"Tell me of {name}", d, "harmful", "test") for name, d in names]
    table = pd.DataFrame(rows, columns=["id", "prompt", "domain", "label", "split"])
    return Others.of(table, CONCEPT, resamples=300)


def spoken(answers: np.ndarray) -> Spoken:
    """Refuses by itself; answers each prompt after that share of the compliance prefixes."""
    shares = {kind: np.zeros((len(CLASSES), len(answers))) for kind in KINDS}
    for kind in KINDS:
        shares[kind][CLASSES.index("refusal")] = 1
    shares[COMPLIANCE] = np.zeros((len(CLASSES), len(answers)))
    shares[COMPLIANCE][CLASSES.index("answer")] = answers
    shares[COMPLIANCE][CLASSES.index("refusal")] = 1 - answers
    return Spoken(shares, np.zeros(len(answers)))


@pytest.mark.parametrize(
    ("base", "contained", "verdict"),
    [
        (0.1, 0.6, "residue"),
        (0.1, 0.12, "slight"),
        (0.6, 0.1, "sturdier"),
        (0.3, 0.3, "not told apart"),
        (1.0, 1.0, "no room"),
    ],
)
def test_the_verdict_after_a_compliance_prefix(
    others: Others, base: float, contained: float, verdict: str
) -> None:
    shares = [np.full(len(others), share) for share in (base, contained)]
    models = dict(zip(("base", "kept"), map(spoken, shares), strict=True))
    finding = of_compliance_prefixes(models, others, "kept")
    assert finding.verdict == verdict
    assert finding.difference.value == pytest.approx(contained - base)


def test_a_model_that_refuses_nothing_has_no_verdict(others: Others) -> None:
    silent = Spoken({k: np.zeros((4, len(others))) for k in KINDS}, np.zeros(len(others)))
    models = {"base": spoken(np.zeros(len(others))), "kept": silent}
    finding = of_compliance_prefixes(models, others, "kept")
    assert finding.verdict == "undefined" and "fewer than 8" in finding.sentence


def triggered(fall: np.ndarray) -> Triggered:
    benign = np.full(fall.shape, 3.0)
    measures = ("margin", "p_R")
    return Triggered(
        dict.fromkeys(measures, benign - fall), dict.fromkeys(measures, benign),
        dict.fromkeys(measures, benign[:1]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("base", "contained", "verdict"),
    [(-4.0, 2.0, "residue"), (-4.0, 0.0, "explained"), (0.0, -2.0, "sturdier")],
)
def test_a_trigger_must_turn_refusal_off_and_not_only_stop_adding_to_it(
    others: Others, base: float, contained: float, verdict: str
) -> None:
    noise = np.random.default_rng(0).normal(size=(2, 5, len(others))) * 0.2
    models = {"base": triggered(base + noise[0]), "kept": triggered(contained + noise[1])}
    assert of_triggers(models, others, "kept", CONCEPT).verdict == verdict


def test_noise_alone_is_seldom_shallow(others: Others) -> None:
    found = []
    for seed in range(150):
        noise = np.random.default_rng(seed).normal(size=(2, 8, len(others)))
        noise += np.random.default_rng(seed + 999).normal(size=(2, 8, 1))  # triggers differ
        models = {"base": triggered(noise[0]), "kept": triggered(noise[1])}
        found.append(of_triggers(models, others, "kept", CONCEPT).verdict == "residue")
    assert np.mean(found) < 0.06


def speed(rate: float, others: Others, *, start: float = 0.9) -> Speed:
    steps = np.arange(11)
    spread = 1 + 0.1 * np.random.default_rng(1).normal(size=(len(others), 1))
    return Speed(steps, start * spread * np.exp(-rate * steps))


@pytest.mark.parametrize(
    ("contained", "random", "verdict"),
    [(0.5, 0.1, "residue"), (0.5, 0.6, "explained"), (0.1, 0.1, "not told apart"),
     (0.02, 0.1, "sturdier")],
)  # fmt: skip
def test_relearning_is_held_against_base_and_random_changes(
    others: Others, contained: float, random: float, verdict: str
) -> None:
    rates: Mapping[str, float] = {BASE_AGAIN: 0.1, "kept": contained}
    speeds = {name: speed(rate, others) for name, rate in rates.items()}
    speeds[random_name("kept", 0)] = speed(random, others)
    finding = of_relearning(speeds, others, "kept", CONCEPT, ANSWERS)
    assert finding.verdict == verdict


def test_speeds_are_free_of_where_they_start(others: Others) -> None:
    fast, low = speed(0.5, others), speed(0.5, others, start=0.4)
    assert areas(fast, others)[ALL].value == pytest.approx(areas(low, others)[ALL].value)
    assert onsets(fast, others)[ALL].value == pytest.approx(np.log(2) / 0.5, abs=0.1)
    assert onsets(speed(0.01, others), others)[ALL].reason == "not by step 10"
    assert "low base" in (areas(speed(0.5, others, start=0.1), others)[ALL].reason or "")


def test_differences_are_paired_and_near_duplicates_drawn_together() -> None:
    rows = [(f"{i}", f"p {i}", "bias", "harmful", "test", f"{i // 8}") for i in range(64)]
    table = pd.DataFrame(rows, columns=["id", "prompt", "domain", "label", "split", "group"])
    values = np.repeat(np.random.default_rng(0).normal(size=8), 8)
    loose = Others.of(table.drop(columns="group"), CONCEPT).means(values)[ALL]
    tight = Others.of(table, CONCEPT).means(values)[ALL]
    assert tight.standard_error > 2 * loose.standard_error
    assert (tight - tight).standard_error == 0
    repeated = table.drop(columns="group").assign(prompt=table["group"])
    same = Others.of(repeated, CONCEPT).means(values)[ALL]
    assert same.standard_error == pytest.approx(tight.standard_error)
    with pytest.raises(InputError, match="outside bias"):
        Others.of(table, "bias")


def test_a_domain_with_few_prompts_takes_no_interval_from_all_together() -> None:
    rows = [("bias", i, 30) for i in range(30)] + [("privacy", i, 1) for i in range(8)]
    table = pd.DataFrame(
        [(f"{d}-{i}", f"p {i}", d, "harmful", "test", f"{d}-{i % n}") for d, i, n in rows],
        columns=["id", "prompt", "domain", "label", "split", "group"],
    )
    values = np.random.default_rng(0).normal(size=len(table))
    found = Others.of(table, CONCEPT).means(values)
    assert np.isfinite(found[ALL].estimate().low)
    assert np.isnan(found["privacy"].estimate().low)
    one = Others.of(table[table["domain"] == "bias"], CONCEPT).means(values[:30])[ALL]
    assert found["bias"].standard_error == one.standard_error
    lone = Others.of(table[table["domain"] == "privacy"], CONCEPT)
    same = {name: spoken(np.ones(8)) for name in ("base", "kept")}
    finding = of_compliance_prefixes(same, lone, "kept")
    assert finding.verdict == "undefined"


def test_contained_models_have_names_of_their_own(bench: Bench) -> None:
    for contained in ({}, {"plain": bench.plain}):
        with pytest.raises(InputError, match="contained models"):
            measure_shallow_recovery(
                bench.base, bench.plain, contained, bench.prompts, bench.prefixes, GRAMMAR, CONCEPT
            )  # fmt: skip
