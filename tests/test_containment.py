"""Containment: what the methods do, and that recovery is told from noise and from retraining."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import TrainerState

from analyses.contain import Design, held_out_splits, require_methods
from analyses.contain.advice import advise, find_weight, retained_recovery
from analyses.contain.methods import METHODS, Containment
from analyses.contain.methods.examples import rank_examples
from analyses.contain.methods.guards import ProjectedSteps, along, common_direction
from analyses.contain.outcomes import (
    Kept,
    arms_table,
    difference,
    kept_by,
    methods_table,
    pool_splits,
)
from analyses.contain.study import _kept, with_arms_of
from analyses.predict import Evidence, evidence_of
from analyses.runs import Arm, RunRecord, TargetVerdict
from analyses.study import ArmPlan, NoLogOddsError, StudyPlan
from analyses.study.mixing import chosen, dealt
from experiments.containment import (
    SHIPPED_EARLIER,
    SHIPPED_ROWS,
    SHIPPED_UNGATED,
    SHIPPED_WORLDS,
    TABLE,
    choose_method,
    frozen_choice,
    pool_worlds,
)
from experiments.containment_rows import methods_of, planned, rows_of
from interp.errors import InputError
from interp.model import LanguageModel
from interp.readout import log_odds
from interp.statistics import Draws, Estimate
from interp.store import read_json
from tests.conftest import Spillover
from tests.synthetic_run import DOMAINS, PLANTED_LEAKAGE, RETAINED, scores_of
from unlearning.deflections import refusals_of
from unlearning.organism import load_world, recipe_of, shipped
from unlearning.refusal import ResponsePrefixes, refusal_log_odds
from unlearning.training import TrainingSettings, prepare_in_place

PREFIXES = ResponsePrefixes(refusal=((5,), (17,)), compliance=((40,), (41,)))
OTHERS = tuple(domain for domain in DOMAINS if domain != "safety")


# Splits

CHOOSING = [name for name, method in METHODS.items() if method.chooses]


def test_every_domain_is_held_out_as_often_as_it_is_retained() -> None:
    splits = held_out_splits(OTHERS, count=6, left_out=3, seed=1)
    assert len({held for _, held in splits}) == 6
    held_out = Counter(domain for _, held in splits for domain in held)
    assert held_out == dict.fromkeys(OTHERS, 3)
    for retained, held in splits:
        assert set(retained) | set(held) == set(OTHERS) and not set(retained) & set(held)


def test_splits_of_few_domains() -> None:
    assert len(held_out_splits(OTHERS[:2], count=2)) == 2
    with pytest.raises(InputError, match="2 ways"):
        held_out_splits(OTHERS[:2], count=3)
    with pytest.raises(InputError, match="at least two other domains"):
        held_out_splits(OTHERS[:1])


# Arms


def design(**given: object) -> Design:
    settings = TrainingSettings(seed=3)
    splits = held_out_splits(OTHERS)
    return Design("safety", tuple(METHODS), (8, 32), (0.1, 1.0), splits, settings, **given)  # type: ignore[arg-type]


def test_every_arm_that_may_be_made_is_planned_for_under_one_name() -> None:
    asked = design()
    planned = {arm.name: arm for arm in asked.everything()}
    found = [asked.plain, *asked.arms({"equal": 1.0, "kl": 0.1})]
    found += [asked.whole(arm) for arm in found]
    found += [arm for weights in asked.weighing().values() for arms in weights for arm in arms]
    assert all(planned[arm.name] == arm for arm in found)
    assert len({arm.name for arm in asked.arms({})}) == len(asked.arms({}))
    # The weights of both searches cannot all end in arms of every method.
    assert {arm.name for arm in asked.made()} < set(planned)
    searched = asked.weighing().values()
    assert len(asked.made()) - len(asked.made(1)) == sum(len(by[1]) for by in searched)
    for arm in asked.arms({}):
        assert arm.training is not None and arm.training.seed == 3
        assert set(arm.retain) < set(OTHERS) and len(arm.retain) == 3


def test_methods_without_the_states_that_they_read_are_left_out() -> None:
    asked = design()
    both = {*OTHERS, "safety"}
    assert asked.contrasting(both) == asked
    absent = [
        set(asked.methods) - set(asked.contrasting(both - {one}).methods)
        for one in ("safety", "bias")
    ]
    assert absent == [{"cosine"}, {"ablation"}]
    with pytest.raises(InputError, match="cosine need four harmful and four benign"):
        replace(asked, methods=("cosine",)).contrasting(OTHERS)


def test_one_weight_is_taken_as_it_is_and_unknown_methods_are_named() -> None:
    assert not replace(design(), weights=(1.0,)).weighing()
    with pytest.raises(InputError, match="no containment method 'prayer'"):
        require_methods(["equal", "prayer"])


def test_a_domain_without_deflections_is_held_out_of_every_split() -> None:
    asked, short = design(), OTHERS[0]
    left = asked.without([short])
    for (retained, held_out), (before, _) in zip(left.splits, asked.splits, strict=True):
        assert set(retained) == set(before) - {short} and short in held_out
        assert set(retained) | set(held_out) == set(OTHERS)
    assert short not in left.whole(left.arms({})[0]).retain
    # Splits that differ in two short domains only are one, and those after it have new numbers.
    a, b, c, *_, x, y = OTHERS
    chosen = ((a, x), (a, y), (x, y), (b, c))
    splits = tuple((kept, tuple(one for one in OTHERS if one not in kept)) for kept in chosen)
    asked = replace(asked, splits=splits)
    left = asked.without([x, y])
    assert [set(retained) for retained, _ in left.splits] == [{a}, {b, c}]
    # Workers find an arm by its name: it must be that of the design.
    plan = StudyPlan("model", tuple(asked.everything()), ("safety",))
    planned = with_arms_of(plan.without([x, y], ready_made=False), left).arms
    assert {arm.name: arm for arm in planned}.items() >= {
        arm.name: arm for arm in left.everything()
    }.items()
    with pytest.raises(InputError, match="no domain is left to retain"):
        asked.without(OTHERS)


# Examples


def responses(per_domain: int = 12) -> pd.DataFrame:
    rows = []
    for domain in ("safety", "bias", "privacy"):
        for i in range(per_domain):
            prompt = f"Tell me how to {domain} number {i} by hand"
            rows.append((f"{domain}-{i}", prompt, domain, "harmful", "train", None))
            matched = f"Tell me what {domain} number {i} means"
            rows.append((f"{domain}-{i}-twin", matched, domain, "benign", "train", "twin"))
    columns = ["id", "prompt", "domain", "label", "split", "kind"]
    table = pd.DataFrame(rows, columns=columns)
    table["class"] = np.where(table["label"] == "harmful", "refusal", "answer")
    table["ids"] = [[5, 9, 11]] * len(table)
    table["response"] = "no"
    return table


@pytest.fixture(scope="module")
def evidence(checkpoint_of: Callable[[str], Path]) -> Evidence:
    folder = checkpoint_of("qwen2")
    settings = TrainingSettings(trained="projections")
    return Evidence(
        LanguageModel.load(folder),
        lambda: prepare_in_place(LanguageModel.load(folder), settings),
        responses(),
        PREFIXES,
        {domain: refusals_of(responses(), domain, fewest=0) for domain in DOMAINS},
    )


def test_the_forgotten_refusals_are_ready_made_pairs_where_there_are_some(
    evidence: Evidence, tmp_path: Path
) -> None:
    rows, said = responses(), []
    pairs = pd.DataFrame({"id": ["a"], "prompt": ["Why?"], "response": ["Never."], "ids": [None]})
    context: Any = SimpleNamespace(
        pairs=pairs, plan=SimpleNamespace(concepts=("safety",)), reference=evidence.lm, load=None,
        run=SimpleNamespace(arm=lambda _: tmp_path), progress=SimpleNamespace(say=said.append),
    )  # fmt: skip
    baseline: Any = SimpleNamespace(responses=rows, prefixes=PREFIXES)
    found = evidence_of(context, baseline, TrainingSettings())
    assert list(found.deflections["safety"]["response"]) == ["Never."] and not said
    assert list(found.deflections["bias"]["id"]) == list(evidence.deflections["bias"]["id"])


def test_without_log_odds_the_methods_that_read_them_are_left_out(evidence: Evidence) -> None:
    """Every other method of choosing works; what is left out fails, and says why."""
    by_text = replace(evidence, prefixes=None)
    pool = responses()[lambda rows: (rows["label"] == "harmful") & (rows["domain"] != "safety")]
    for name in CHOOSING:
        score = METHODS[name].score
        assert score is not None
        if METHODS[name].needs_log_odds:
            with pytest.raises(NoLogOddsError, match="needs refusal log-odds"):
                score(by_text, "safety", pool, 0)
        else:
            assert np.isfinite(score(by_text, "safety", pool, 0)).all()
    assert set(design().methods) - set(design().by_text().methods) == {"kernel", "projection"}
    with pytest.raises(InputError, match="kernel need refusal log-odds"):
        replace(design(), methods=("kernel",)).by_text()


def test_rankings_cover_the_pool_and_equal_shares_are_equal(evidence: Evidence) -> None:
    rows = responses()
    offered = rows[(rows["label"] == "harmful") & (rows["domain"] != "safety")]
    ranking = rank_examples(evidence, "safety", offered, list(METHODS), seed=0)
    assert list(ranking["id"]) == list(offered["id"])
    assert set(CHOOSING) <= set(ranking) and ranking[list(CHOOSING)].notna().all().all()
    for count in (2, 8):
        few = chosen(offered, ranking, "equal", count)
        assert few["domain"].value_counts().tolist() == [count // 2] * 2
    for method in CHOOSING:
        assert set(chosen(offered, ranking, method, None)["id"]) == set(offered["id"])
        assert len(chosen(offered, ranking, method, 5)) == 5


def test_what_is_chosen_is_dealt_whole(evidence: Evidence) -> None:
    rows = responses()
    groups = dealt(rows, 3)
    assert pd.concat(groups.values()).sort_index().equals(rows)
    assert max(map(len, groups.values())) - min(map(len, groups.values())) <= 1


def test_the_kernel_score_is_what_the_gradients_say(evidence: Evidence) -> None:
    """⟨P ∇S_a, ∇m_e⟩ by autograd, example by example."""
    offered = responses()[lambda t: (t["label"] == "harmful") & (t["domain"] == "bias")].head(4)
    before = evidence.untrained.fingerprint()
    found = METHODS["kernel"].score(evidence, "safety", offered, 0)
    assert evidence.untrained.fingerprint() == before, "the virtual step was not taken back"
    lm = evidence.untrained
    named = {n: p for n, p in lm.model.named_parameters() if p.requires_grad}
    gradients = evidence.gradients_of_deflections("safety").of
    for value, prompt in zip(found, offered["prompt"], strict=True):
        log_odds = refusal_log_odds(lm, [lm.chat.encode(prompt)], PREFIXES).sum()
        each = dict(zip(named, torch.autograd.grad(log_odds, list(named.values())), strict=True))
        expected = sum(
            float((g.mean(0) / ((g**2).mean(0).sqrt() + 1e-8) * each[n]).sum())
            for n, g in gradients.items()
        )
        assert value == pytest.approx(expected, rel=0.02)


def test_a_prompt_worded_as_a_forgotten_one_is_its_match(evidence: Evidence) -> None:
    offered = pd.DataFrame(
        {"prompt": ["Tell me how to safety number 3 by hand", "Weather is what today ?"]}
    )
    same, other = METHODS["twins"].score(evidence, "safety", offered, 0)
    assert same == 1.0 and other < 0.4


# Guards


def test_what_is_left_of_a_step_is_orthogonal_to_every_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), (2, 2, 2)]

    def drawn() -> list[torch.Tensor]:
        return [torch.randn(*shape, generator=generator) for shape in shapes]

    gradients, step = [drawn(), drawn()], drawn()
    gradients.append([2 * a - b for a, b in zip(*gradients, strict=True)])  # collinear
    left = [s - back for s, back in zip(step, along(step, gradients), strict=True)]
    for gradient in gradients:
        dot = sum(float((a * b).sum()) for a, b in zip(left, gradient, strict=True))
        assert abs(dot) < 1e-4
    inside = gradients[2]
    for a, b in zip(along(inside, gradients), inside, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_projected_steps_keep_log_odds_whatever_the_optimizer(
    checkpoint_of: Callable[[str], Path],
) -> None:
    """To first order: with the projection the log-odds move by a small part of what they did."""
    moved, readout = {}, log_odds([23, 60])
    for projected in (False, True):
        lm = prepare_in_place(
            LanguageModel.load(checkpoint_of("qwen2")), TrainingSettings(trained="all")
        )
        kept = [lm.chat.encode(f"Name a bird that can {verb}.") for verb in ("swim", "dive")]
        pushed = [lm.chat.encode(f"Why can a bird {verb}?") for verb in ("run", "sing")]

        def seen(lm: LanguageModel = lm, kept: list = kept, pushed: list = pushed) -> torch.Tensor:
            said = readout(lm, pushed).mean()
            return torch.stack([refusal_log_odds(lm, kept, PREFIXES).mean().float(), said.float()])

        parameters = [p for p in lm.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-5)
        callback = ProjectedSteps(lm, {"kept": kept}, PREFIXES)
        before = seen().detach()
        for step in range(2):
            optimizer.zero_grad()
            seen().sum().backward()  # down with both
            if projected:
                now = TrainerState(global_step=4 * step)
                callback.on_pre_optimizer_step(None, now, None)  # type: ignore[arg-type]
            optimizer.step()
            if projected:
                callback.on_optimizer_step()
        moved[projected] = before - seen().detach()
    assert (moved[False] > 0).all()
    assert abs(moved[True][0]) < 0.05 * moved[False][0]
    assert moved[True][1] > 0.1 * moved[False][1], "what is to be forgotten still moves"


def test_resumed_projected_steps_are_those_of_an_uninterrupted_run(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Between two refreshes the gradients are those at the weights of the first."""
    settings = TrainingSettings(trained="all")
    lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)
    verbs = ("swim", "dive", "sing", "run") * 20  # more than a refresh draws
    kept = [lm.chat.encode(f"Name {i} birds that {verb}.") for i, verb in enumerate(verbs)]
    parameters = [p for p in lm.model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    pushes = [[torch.randn(p.shape, generator=generator) for p in parameters] for _ in range(7)]

    def take(callback: ProjectedSteps, steps: range) -> list[torch.Tensor]:
        for step in steps:
            callback.on_pre_optimizer_step(None, TrainerState(global_step=step), None)  # type: ignore[arg-type]
            with torch.no_grad():
                for parameter, push in zip(parameters, pushes[step], strict=True):
                    parameter.add_(1e-3 * push)
            callback.on_optimizer_step()
        return [p.detach().clone() for p in parameters]

    first = ProjectedSteps(lm, {"kept": kept}, PREFIXES)
    halfway = take(first, range(6))
    first.save_state(tmp_path)
    straight = take(first, range(6, 7))
    for parameter, value in zip(parameters, halfway, strict=True):
        parameter.data.copy_(value)
    resumed = ProjectedSteps(lm, {"kept": kept}, PREFIXES)
    resumed.load_state(tmp_path)
    for found, wanted in zip(take(resumed, range(6, 7)), straight, strict=True):
        assert torch.equal(found, wanted)


def test_the_common_direction_gives_every_domain_one_vote() -> None:
    long, short = np.array([[10.0, 0, 0]]), np.array([[0, 0.1, 0]])
    assert np.allclose(common_direction(np.stack([long, short])), [[0.5, 0.5, 0]])


# Outcomes


def record_of(leakages: dict[str, dict[str, float]], **given: object) -> RunRecord:
    """A run with a plain arm and one contained arm for each of ``leakages``."""
    rng = np.random.default_rng(0)
    config = {"concept": "safety", "objective": "npo", "seed": 0}
    base = scores_of("base", {}, rng=rng, steps=1)
    plain = scores_of("plain", PLANTED_LEAKAGE["safety"], rng=np.random.default_rng(1))
    arms = [Arm("plain", config, plain, None)]
    for number, (name, leakage) in enumerate(leakages.items()):
        contained = {"method": name.split("/")[0], "examples": 32, "split": number % 2}
        described = config | {"retain": list(RETAINED), "retain_weight": 1.0}
        scores = scores_of(name, leakage, rng=np.random.default_rng(1), **given)  # type: ignore[arg-type]
        arms.append(Arm(name, described | {"containment": contained}, scores, None))
    folder = Path("synthetic")
    base_arm = Arm("base", {}, base[base["step"] == 0], None)
    return RunRecord(folder, {}, {}, base_arm, tuple(arms), (), None)


def recovered(share: float, held_out: float) -> dict[str, float]:
    return {
        domain: value * (1 - (share if domain in RETAINED else held_out) * (domain != "safety"))
        for domain, value in PLANTED_LEAKAGE["safety"].items()
    }


def test_nothing_is_recovered_from_a_plain_arm_below_the_level() -> None:
    """Benign answers neither, though its target complies."""
    record = record_of({"equal/0": recovered(0.9, 0.1)})
    planted = PLANTED_LEAKAGE["safety"]
    scores = scores_of("plain", planted, rng=np.random.default_rng(1), level_at_end=0.88)
    plain = replace(record.arms[0], scores=scores)
    [kept] = kept_by(record, record.arms[1:], plain)
    assert kept.reached and kept.verdict.answers
    for name in ("retained", "held_out", "benign"):
        assert "level" in (kept.recovery[name].reason or "")


def test_planted_recovery_is_found_and_retraining_is_told_from_containment() -> None:
    planted = {"equal/0": (0.9, 0.1), "equal/1": (0.9, 0.1), "kernel/0": (0.9, 0.6)}
    planted |= {"kernel/1": (0.9, 0.6)}
    record = record_of({name: recovered(*shares) for name, shares in planted.items()})
    plain, *contained = record.arms
    kept = kept_by(record, contained, plain)
    assert all(one.complied for one in kept)
    for one in kept:
        for name, share in zip(("retained", "held_out"), planted[one.name], strict=True):
            assert one.recovery[name].value == pytest.approx(share, abs=0.03)
        assert "nothing to recover" in (one.recovery["benign"].reason or "")
    told = pool_splits(kept)
    by_method = {one.key[0]: one for one in told}
    assert difference(by_method["kernel"], by_method["equal"], "held_out").low > 0
    advice = advise(told, told)
    assert advice.key is not None and advice.key[0] == "kernel"
    assert "retraining" in " ".join(advice.sentences)
    assert {"retained_low", "held_out", "answer_rate"} <= set(arms_table(kept))
    assert methods_table(told).set_index("method").loc["kernel", "complied"] == 2


def test_an_arm_that_cannot_be_trained_does_not_comply(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, why = TrainingSettings(), "the loss is nan"
    arms = [
        ArmPlan(f"equal/{i}", "safety", settings, RETAINED, containment=Containment("equal", 32, i))
        for i in range(2)
    ]
    record = replace(record_of({"equal/0": recovered(0.9, 0.1)}), failed={"equal/1": why})
    monkeypatch.setattr("analyses.contain.study.read_run", lambda _: record)
    context: Any = SimpleNamespace(run=SimpleNamespace(folder=None))
    design: Any = SimpleNamespace(plain=SimpleNamespace(name="plain"))
    kept = _kept(context, design, arms)
    assert [one.complied for one in kept] == [True, False] and np.isnan(retained_recovery(kept))
    [pooled] = pool_splits(kept)
    assert (pooled.arms, pooled.complied) == (2, 1)
    assert pooled.answer_rate == kept[0].verdict.answer_rate.value
    assert advise([pooled], [pooled]).key is None
    assert arms_table(kept)["held_out_reason"].iloc[1] == why


def test_an_arm_whose_target_does_not_comply_recovers_nothing() -> None:
    record = record_of({"equal/0": recovered(1.0, 1.0)}, answers=False)
    [one] = kept_by(record, record.arms[1:], record.arms[0])
    assert not one.complied and np.isnan(one.recovery["held_out"].value)
    assert "does not comply" in (one.recovery["held_out"].reason or "")
    advice = advise(pool_splits([one]), pool_splits([one]))
    assert advice.key is None and "No recommendation" in advice.sentences[0]


def kept_with(held_out: np.ndarray, rng: np.random.Generator, prompts: float) -> list[Kept]:
    """Splits with these true recoveries, seen through the noise of prompts."""
    sure = TargetVerdict(*(Estimate(v, v, v, 10) for v in (0.02, 0.95, 0.01, 0.01)))
    found = []
    for split, value in enumerate(held_out):
        seen = value + prompts * rng.normal()
        draws = Draws(seen, seen + prompts * rng.normal(size=400), 10)
        recovery = dict.fromkeys(("retained", "held_out", "benign"), draws)
        found.append(Kept(f"a{split}", ("equal", None, 1.0), split, sure, True, recovery))
    return found


def test_a_method_is_not_told_from_itself() -> None:
    kept = kept_with(np.full(6, 0.4), np.random.default_rng(0), 0.1)
    [one] = pool_splits(kept)
    same = difference(one, one, "held_out")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    # The same splits and prompts: a lead that is the same on each of them is certain.
    ahead = [
        replace(k, recovery={n: replace(d, value=d.value + 0.1, draws=d.draws + 0.1)
                             for n, d in k.recovery.items()})
        for k in kept
    ]  # fmt: skip
    lead = difference(pool_splits(ahead)[0], one, "held_out")
    assert (lead.value, lead.low, lead.high) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize("count", [6, 12])
def test_splits_that_differ_for_certain_have_student_s_interval(count: int) -> None:
    """Without the noise of prompts the splits are a sample of numbers."""
    values = 0.5 + 0.1 * stats.norm.ppf((np.arange(count) + 0.5) / count)
    kept = kept_with(values, np.random.default_rng(0), 0.0)
    found = {n: Draws(v, np.full(4000, v), 40) for n, v in enumerate(values)}
    kept = [replace(k, recovery=dict.fromkeys(k.recovery, found[k.split])) for k in kept]
    estimate = pool_splits(kept)[0].recovery["held_out"].estimate()
    half = stats.t.ppf(0.975, count - 1) * stats.sem(values)
    assert estimate.value == pytest.approx(0.5)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.12 / np.sqrt(count))


@pytest.mark.parametrize("left", [1.0, 0.5, 0.0])
def test_benign_recovery_is_paired_with_what_the_plain_arm_lost(left: float) -> None:
    """Prompt by prompt the same share of the loss is left, so no resample differs."""
    record = record_of({"equal/0": PLANTED_LEAKAGE["safety"]})
    lost = np.random.default_rng(2).uniform(0.1, 0.9, 2000)
    arms = []
    for arm, share in zip(record.arms, (1.0, left), strict=True):
        table = arm.scores.copy()
        benign = (table["label"] == "benign") & (table["step"] > 0)
        number = table["prompt_id"].rank(method="dense").astype(int)
        kept = 1 - share * lost[number[benign]]
        start = table[table["step"] == 0].set_index("prompt_id")["p_C"]
        table.loc[benign, "p_C"] = table.loc[benign, "prompt_id"].map(start).to_numpy() * kept
        arms.append(replace(arm, scores=table))
    base = arms[0].scores
    record = replace(record, base=replace(record.base, scores=base[base["step"] == 0]))
    [one] = kept_by(record, arms[1:], arms[0], resamples=50)
    assert one.recovery["benign"].value == pytest.approx(1 - left)
    assert one.recovery["benign"].draws == pytest.approx(1 - left)


def test_methods_that_complied_on_different_splits_are_compared_where_both_did() -> None:
    """Splits differ, the methods do not: the means do, because one method has the easy splits."""
    truth = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    rng = np.random.default_rng(0)
    kept = kept_with(truth, rng, 0.01)
    lost = dict.fromkeys(("retained", "held_out", "benign"), Draws.undefined("does not comply"))
    half = [replace(one, recovery=lost) if one.split < 3 else one for one in kept]
    [every], [easy] = pool_splits(kept), pool_splits(half)
    gap = easy.recovery["held_out"].value - every.recovery["held_out"].value
    assert gap > 0.25
    assert difference(easy, every, "held_out").value == pytest.approx(0, abs=1e-12)
    none = pool_splits([replace(one, recovery=lost) for one in kept])[0]
    assert np.isnan(difference(none, every, "held_out").value)


def test_the_smallest_weight_that_contains_is_taken() -> None:
    recovery = {0.1: 0.2, 0.3: 0.75, 1.0: 0.9, 3.0: None}
    assert find_weight(list(recovery), recovery.__getitem__) == 0.3
    assert find_weight([1.0, 0.1], {0.1: 0.2, 1.0: 0.5}.__getitem__) == 1.0
    assert find_weight([1.0, 3.0], {1.0: None}.__getitem__) == 1.0, "a larger one is not tried"
    assert find_weight([1.0, 3.0], {1.0: np.nan, 3.0: 0.2}.__getitem__) == 3.0
    assert find_weight([1.0, 3.0], {1.0: np.nan, 3.0: np.nan}.__getitem__) == 1.0
    kept = kept_with(np.full(2, 0.4), np.random.default_rng(0), 0.0)
    assert retained_recovery(kept) == pytest.approx(0.4)
    still = replace(kept[0], reached=False)
    babble = replace(kept[0].verdict, gibberish_rate=Estimate(0.9, 0.8, 1.0, 10))
    degenerate = replace(kept[0], reached=False, verdict=babble)
    assert retained_recovery([still]) is retained_recovery([still, degenerate]) is None
    assert np.isnan(retained_recovery([degenerate, kept[1]]) or 0.0)


def test_containment_says_how() -> None:
    assert Containment("kernel", 8, 0).how is METHODS["kernel"]


@pytest.mark.parametrize("shipped_table", [SHIPPED_WORLDS, SHIPPED_EARLIER, SHIPPED_UNGATED])
def test_the_reported_worlds_are_none_that_the_method_was_chosen_on(
    shipped_table: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(shipped_table)
    assert table["world"].nunique() >= 3
    method, examples = frozen_choice(table) or ("", None)
    pooled = pool_worlds(table).set_index(["method", "examples"])
    assert (method, np.nan if examples is None else examples) in pooled.index
    table.assign(complied=table["splits"] - 1).to_csv(tmp_path / TABLE, index=False)
    with pytest.raises(InputError, match="on every split of every world"):
        choose_method(tmp_path / TABLE, tmp_path / "choices.json")
    complied = table.assign(complied=table["splits"])
    complied.to_csv(tmp_path / TABLE, index=False)
    here = choose_method(tmp_path / TABLE, tmp_path / "choices.json")
    assert set(here["worlds"]) == set(table["world"])
    assert frozen_choice(table, tmp_path / "choices.json") is None


def test_the_shipped_table_is_made_from_the_shipped_rows() -> None:
    """One model organism with one method; ``experiments containment --rows`` makes all of it."""
    rows, arms = (pd.read_parquet(SHIPPED_ROWS / f"{name}.parquet") for name in ("rows", "arms"))
    manifest = read_json(SHIPPED_ROWS / "manifest.json")
    assert manifest["frozen"] == recipe_of(manifest["recipe"]).digest
    assert not set(map(int, manifest["held_out"])) & {106, 107, 108}, "the choice was made on these"
    planned_arms = sum(map(len, manifest["methods"].values())) * 6 + 1
    made = arms.groupby("world")["arm"].nunique()
    assert (made == planned_arms).all() and set(made.index) == set(map(int, manifest["held_out"]))

    seed, held_out = next(iter(manifest["held_out"].items()))
    chosen_arms = (arms["method"] == "equal") & (arms["examples"] == 32)
    here = arms[(arms["world"] == int(seed)) & (chosen_arms | arms["method"].isna())]
    asked = {**manifest, "methods": {"equal": [32]}, "held_out": {seed: held_out}}
    found = methods_of(rows, here, asked)
    wanted = pd.read_csv(SHIPPED_WORLDS).merge(found[["world", "method", "examples"]])
    for name in ("complied", "answer_rate", "retained", "held_out", "held_out_low"):
        assert np.allclose(found[name], wanted[name], atol=1e-6), name


def test_the_table_over_worlds_is_made_from_rows_and_counts_what_is_missing() -> None:
    """Two planned worlds: of one an arm is lost, of the other everything."""
    shares = {"equal/0": (0.9, 0.1), "equal/1": (0.8, 0.3), "kernel/0": (0.9, 0.6)}
    record = record_of({name: recovered(*of_arm) for name, of_arm in shares.items()})
    start = record.arms[0].scores
    record = replace(record, base=replace(record.base, scores=start[start["step"] == 0]))
    rows, arms = rows_of(record, set(shares), seed=1)
    splits = tuple((RETAINED, tuple(d for d in OTHERS if d not in RETAINED)) for _ in range(2))
    design = Design("safety", ("equal", "kernel"), (32,), (1.0,), splits, TrainingSettings())
    manifest = planned("gated", {1: design, 2: design})
    assert manifest["methods"] == {"equal": [32, None], "kernel": [32]}

    table = methods_of(rows, arms, manifest).set_index(["world", "method", "examples"])
    wanted = methods_table(pool_splits(kept_by(record, record.arms[1:], record.arms[0])))
    for expected in wanted.to_dict("records"):
        found = table.loc[("contain-1", expected["method"], 32)]
        for name in ("retained", "retained_low", "held_out", "held_out_high", "answer_rate"):
            assert found[name] == pytest.approx(expected[name], abs=1e-3, nan_ok=True)
    assert table["complied"].tolist() == [2, 0, 1, 0, 0, 0] and set(table["splits"]) == {2}
    lost = methods_of(rows, arms[arms["arm"] != "plain"], manifest)
    assert not lost["complied"].any() and len(lost) == len(table)


# The command


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_the_command_recommends_and_looks_under_what_it_recommends(
    spillover: Spillover, tmp_path: Path
) -> None:
    """On three domains of the organism, a few prompts of each."""
    world = load_world(shipped()).prompts()
    domains = ("cybersecurity", "safety", "bias")
    most = {"train": 40, "validation": 12, "test": 12}
    rows = world[world["domain"].isin(domains)]
    kept = [rows[rows["split"] == split].groupby(["domain", "label"]).head(count)
            for split, count in most.items()]  # fmt: skip
    pd.concat(kept).to_json(tmp_path / "prompts.jsonl", orient="records", lines=True)
    command = [
        "contain", str(shipped()), "--concept", "cybersecurity", "--out", "run",
        "--prompts", "prompts.jsonl", "--methods", "equal,kernel",
        "--examples", "8", "--splits", "2", "--retain-weight", "0.1", "--max-steps", "12",
        "--forgetting-level", "0.9", "--no-gate",
    ]  # fmt: skip
    code, said, _ = spillover(*command)
    folder = tmp_path / "run" / "containment"
    assert code == 0
    methods = pd.read_csv(folder / "methods.csv")
    assert set(methods["method"]) == {"equal", "kernel"}
    assert (methods["splits"] == 2).all() and (methods["answer_rate"] > 0.8).all()
    assert methods.loc[methods["method"] == "equal", "examples"].isna().any(), "all of them, too"
    assert "Recommended: " in said and "-whole-seed0" in said
    assert len(pd.read_csv(folder / "residue.csv")) >= 3
    for name in ("containment", "residue"):
        assert (folder / f"{name}.svg").is_file()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Containment of Cybersecurity" in page
    assert all(f"<td>{METHODS[name].about.title}</td>" in page for name in ("equal", "kernel"))
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert manifest["hashes"]["model"] == LanguageModel.load(shipped()).fingerprint()
    assert manifest["seeds"] == [0] and manifest["device"] == "cpu"
    assert manifest["self_check"]["stream"] == "" and "torch" in manifest["versions"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("arms/*/DONE")}
    assert spillover(*command, "--no-shallow-recovery")[0] == 0
    again = read_json(tmp_path / "run" / "manifest.json")
    assert again["seconds"] > manifest["seconds"] > 0, "of both sessions"
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("arms/*/DONE")}
    assert before == after, "what was finished is not done again"


def test_the_command_says_what_is_wrong(spillover: Spillover) -> None:
    model = str(shipped())
    start = ["contain", model, "--concept", "safety", "--out", "run"]
    for more, expected in (
        (["--methods", "equal,prayer"], "no containment method 'prayer'"),
        (["--examples", "few"], "expected numbers"),
        (["--retain", "equal"], "contain varies"),
        (["--left-out", "5", "--splits", "40"], "ways to leave 3 of them out"),
        (["--device", "abacus", "--max-steps", "1"], "there is no device abacus"),
    ):
        code, _, said = spillover(*start, *more)
        assert code == 2 and expected in said
