"""The direction gate on models in which the answer is planted, and the transfer between groups."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analyses.options import named_values
from analyses.predict.by_intervention import intervention_transfer
from analyses.report import GATE_FILE, require_chat_of_run, weights_of_run
from analyses.report.gate_line import gate_view
from analyses.runs import Inputs
from analyses.study import gate as study_gate
from analyses.study import gate_prompts
from interp.errors import InputError
from interp.interventions import ablate
from interp.interventions.affine import set_to_means, token_means
from interp.model import LanguageModel, Tokens
from interp.readout import Readout, last_logits, log_odds
from interp.selection import (
    DirectionGate,
    Prompts,
    measure_gate,
    measure_transfer,
    next_token_divergence,
)
from interp.selection.gate_prompts import sides_of
from interp.selection.gate_statistics import (
    best_candidate,
    beyond,
    covariance_matched_directions,
    null_p_value,
    random_directions,
    reasons_against,
    shared_subspace,
)
from interp.similarity import cosine_shift
from interp.store import read_json, user_cache, write_json
from spillover import example_run
from tests.conftest import Spillover
from unlearning.data import matched_pairs
from unlearning.organism import shipped
from unlearning.refusal import ResponsePrefixes, readout_of

WIDTH, GAP = 24, 4.0
FIRST = log_odds([0])
MARKS = {"red": " zebra", "blue": " quartz"}
TOPICS = ("bread", "a chair", "the sea", "old maps", "a train", "salt", "paper", "tea", "stones",
          "a song", "rain", "glass")  # fmt: skip


class PlantedModel(nn.Module):
    """Refuses with log-odds that are linear in one or two components of the last token.

    Its first layer writes a component at every token from a mark on. The position of benign
    prompts on it is ``origin``; a marked prompt lies ``GAP`` higher.
    """

    def __init__(
        self, ids: list[list[int]], vocabulary: int, origin: float, separate: bool, massive: bool
    ) -> None:
        super().__init__()
        text = SimpleNamespace(num_hidden_layers=3, hidden_size=WIDTH, num_attention_heads=1)
        self.config = SimpleNamespace(get_text_config=lambda decoder=True: text)
        self.dtype, self.device = torch.float32, torch.device("cpu")
        generator = torch.Generator().manual_seed(0)
        embedding = torch.randn(vocabulary, WIDTH, generator=generator) / 2
        embedding[:, :4] = 0.0
        for number, marks in enumerate(ids):
            embedding[marks, number] = 1.0
        self.embed = nn.Embedding.from_pretrained(embedding)
        self.layers = nn.ModuleList(
            PlantedLayer(i, origin, separate, massive, torch.Generator().manual_seed(1))
            for i in range(3)
        )
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(0.1 * torch.randn(vocabulary, WIDTH, generator=generator))
            self.head.weight[:, 2:4] = 0.0
        self.threshold = origin + GAP / (4 if separate else 2)
        self.level = float(np.log(vocabulary))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False
    ) -> SimpleNamespace:
        states = self.embed(input_ids) * attention_mask[..., None]
        first = (attention_mask.cumsum(1) == 1) & (attention_mask == 1)
        for layer in self.layers:
            layer.first = first
            states = layer(states)
        logits = self.head(states)
        most = states[..., 2:4].amax(-1)
        logits = logits.clone()
        logits[..., 0] = 3 * (most - self.threshold) + self.level
        return SimpleNamespace(logits=logits)


class PlantedLayer(nn.Module):
    def __init__(
        self, number: int, origin: float, separate: bool, massive: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.number, self.origin, self.separate, self.massive = number, origin, separate, massive
        self.first = torch.zeros(1, 1, dtype=torch.bool)
        # A parameter, so that the layer is on a device and counted.
        self.noise = nn.Parameter(torch.randn(WIDTH, generator=generator), requires_grad=False)
        across = torch.randn(WIDTH, generator=generator)
        self.across = across - (across @ self.noise) / (self.noise @ self.noise) * self.noise

    def forward(self, hidden_states: Tensor) -> Tensor:
        written = torch.zeros_like(hidden_states)
        if self.number == 0:
            marks = hidden_states[..., :2].cummax(dim=1).values
            if self.separate:
                written[..., 2:4] = self.origin + GAP * marks
            else:
                written[..., 2] = self.origin + GAP * marks.amax(-1)
                written[..., 3] = -100.0
            written[..., 5:] = hidden_states[..., 5:].cumsum(dim=1) / 4  # topics reach all tokens
            if self.massive:
                written = written + 1e4 * self.first[..., None] * self.noise
        elif self.massive:
            # Every token reads the first one along an axis on which its long vector is not.
            at_first = (hidden_states * self.first[..., None]).sum(dim=1, keepdim=True)
            written[..., 4] = 0.1 * (at_first @ self.across) * ~self.first
        return hidden_states + written


@pytest.fixture(scope="module")
def reader(checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("llama"))


def planted(
    reader: LanguageModel, *, origin: float = 0.0, separate: bool = False, massive: bool = False
) -> LanguageModel:
    tokens = [set(reader.tokenizer.encode(m, add_special_tokens=False)) for m in MARKS.values()]
    shared = {*reader.chat.encode("Tell me about bread.").ids, *(tokens[0] & tokens[1])}
    ids = [sorted(own - shared) for own in tokens]
    model = PlantedModel(ids, len(reader.tokenizer), origin, separate, massive)
    return LanguageModel(model.eval(), reader.tokenizer, reader.chat, "planted")


def prompts(start: int, group: str, count: int = 8) -> Prompts:
    topics = [TOPICS[(start + i) % len(TOPICS)] for i in range(count)]
    tails = ["please", "today", "at length"][start % 3]
    return Prompts(
        [f"Tell me about {topic}{MARKS[group]} {tails}." for topic in topics],
        [f"Tell me about {topic} {tails}." for topic in topics],
    )


def gate_of(lm: LanguageModel, readout: Readout = FIRST, **options: Any) -> DirectionGate:
    train = {group: prompts(0, group) for group in MARKS}
    held_out = [
        Prompts(
            [*prompts(i, "red", 4).positive, *prompts(i, "blue", 4).positive],
            prompts(i, "red").negative,
        )
        for i in (1, 2)
    ]
    return measure_gate(lm, train, *held_out, readout, draws=5, **options)


def test_a_direction_through_the_origin_passes_in_both_forms(reader: LanguageModel) -> None:
    gate = gate_of(planted(reader))
    assert gate.passed, gate.reasons
    assert gate.bypass.value < -3 and gate.induce.value > 3 and gate.kl.value < 0.01
    assert gate.zero.bypass.value < -3
    axis = gate.direction / np.linalg.norm(gate.direction)
    assert abs(axis[2]) > 0.9 and gate.layer in (1, 2)
    assert gate.frame["chosen"].sum() == 1 and set(gate.frame["kind"]) >= {"pooled", "red", "blue"}
    assert "passed" in repr(gate) and "none" in gate.massive
    for (effect, _), null in gate.nulls.items():
        assert len(null.draws) == 5 and null.beyond
        assert (null.draws > gate.bypass.value).all() or effect == "induce"


def test_copies_of_a_prompt_narrow_no_interval(reader: LanguageModel) -> None:
    lm, train = planted(reader), {group: prompts(0, group) for group in MARKS}
    validation, once = prompts(1, "red"), prompts(2, "red")
    four = Prompts([*once.positive] * 4, [*once.negative] * 4)
    told = [f"{text} Now." for text in four.positive[:8]]
    linked = Prompts([*once.positive, *told], once.negative, {told[0]: 0, once.positive[0]: 0})
    gates = [
        measure_gate(lm, train, validation, test, FIRST, draws=3, null_prompts=64)
        for test in (once, four)
    ]
    for name in ("bypass", "induce", "kl"):
        one, copied = (getattr(gate, name) for gate in gates)
        assert (copied.low, copied.high) == pytest.approx((one.low, one.high), abs=1e-4)
    sides = sides_of(lm, linked, FIRST, 8, 1, "test")
    assert sides.positive_units[0] == sides.positive_units[8]
    assert len(np.unique(sides.positive_units)) == 15
    few = Prompts([once.positive[0]] * 4, once.negative)
    with pytest.raises(InputError, match="1 of 4 test positive prompts"):
        measure_gate(lm, train, validation, few, FIRST)


def test_an_interrupted_gate_goes_on_where_it_was(reader: LanguageModel, tmp_path: Path) -> None:
    lm, kept = planted(reader), tmp_path / "cache" / "gate.jsonl"
    wanted, read = gate_of(lm), 0

    def stop(_count: int) -> None:
        if len(kept.read_text().splitlines()) > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gate_of(lm, kept=kept, progress=stop)
    whole = kept.read_text()
    kept.write_text(whole[:-3])  # the power failed in the middle of a line

    def counting(lm: LanguageModel, rows: Any) -> Tensor:
        nonlocal read
        read += 1
        return FIRST(lm, rows)

    counts: list[int] = []
    for found in (gate_of(lm, counting), gate_of(lm, counting, kept=kept)):
        pd.testing.assert_frame_equal(found.frame, wanted.frame)
        assert found.summary() == wanted.summary()
        assert all(
            (found.nulls[name].draws == null.draws).all() for name, null in wanted.nulls.items()
        )
        counts.append(read)
    assert counts[-1] - counts[0] < counts[0]
    lines, before = len(kept.read_text().splitlines()), read
    gate_of(lm, counting, kept=kept)
    assert len(kept.read_text().splitlines()) == lines
    assert read - before == 6  # training, validation and test prompts of each kind


def test_rows_of_joined_tables_are_taken_once() -> None:
    """Tables that were put together hold each number of a row twice."""
    table = matched_pairs()
    half = len(table) // 2
    parts = (table.iloc[:half], table.iloc[half:])
    joined = pd.concat([part.reset_index(drop=True) for part in parts])
    assert list(gate_prompts(joined, 3)["id"]) == list(gate_prompts(table, 3)["id"])


def test_where_benign_prompts_are_marked_only_the_affine_form_bypasses(
    reader: LanguageModel,
) -> None:
    gate = gate_of(planted(reader, origin=-GAP))
    assert gate.passed and gate.bypass.value < -3
    assert gate.zero.bypass.value > 3  # the harmful prompts are at zero already


def test_a_behaviour_of_two_directions_does_not_pass(reader: LanguageModel) -> None:
    gate = gate_of(planted(reader, separate=True))
    assert not gate.passed and any("bypass" in reason for reason in gate.reasons)
    table = gate.frame.set_index("kind")
    assert table.loc["subspace of rank 2", "bypass"] < 0
    assert (table.loc[["red", "blue"], "bypass"] > 0).all()


def test_a_model_that_refuses_too_little_is_named(reader: LanguageModel) -> None:
    lm = planted(reader)
    lm.model.threshold += 10
    with pytest.raises(InputError, match="gate cannot be tested: 0 of 16 training positive prom"):
        gate_of(lm)


def test_the_edit_of_a_prompt_does_not_depend_on_the_others(reader: LanguageModel) -> None:
    lm = planted(reader)
    texts = ["Salt.", "Tell me about salt.", "Tell me about the old maps of the sea, please."]
    rows = [lm.chat.encode(text) for text in texts]
    means = token_means(lm, rows, ending=2)
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(2)).numpy()

    def logits(read: list[Tokens], known: list[Tokens]) -> Tensor:
        with set_to_means(lm, direction, means, first_layer=1, rows=known):
            return last_logits(lm, read)

    alone = torch.cat([logits([row], [row]) for row in rows])
    assert torch.allclose(logits(rows, rows), alone, atol=1e-5)
    assert torch.allclose(torch.cat([logits([row], rows) for row in rows]), alone, atol=1e-5)


def test_the_edit_of_a_prompt_does_not_depend_on_what_a_readout_appends() -> None:
    """A readout of several tokens reads prompts that the edit was not told of."""
    lm = LanguageModel.load(shipped())
    rows = [lm.chat.encode(text) for text in ("Salt.", "Tell me about salt.", "Tell me more.")]
    means = token_means(lm, rows, ending=2)
    direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(2)).numpy()
    readout = readout_of(ResponsePrefixes(refusal=((5, 6, 7), (8,)), compliance=((9, 10),)))

    def read(known: list[Tokens]) -> Tensor:
        with set_to_means(lm, direction, means, first_layer=1, rows=known), torch.no_grad():
            return readout(lm, rows)

    assert torch.equal(read([]), read(rows))
    assert (read([]) - readout(lm, rows)).abs().min() > 1e-3


def test_a_massive_first_token_is_spared(reader: LanguageModel) -> None:
    lm = planted(reader, massive=True)
    gate = gate_of(lm)
    assert "the first token" in gate.massive
    assert gate.passed, gate.reasons
    rows = [lm.chat.encode(text) for text in prompts(1, "red").negative]
    axis = random_directions(WIDTH, 1, np.random.default_rng(0))[0]
    with torch.no_grad():
        base = last_logits(lm, rows)
        costs = []
        for include in (False, True):
            with ablate(lm, axis, layers=[1, 2], include_massive=include):
                costs.append(next_token_divergence(base, last_logits(lm, rows)).mean())
    assert costs[1] > 3 * costs[0]


def test_what_transfers_is_what_is_shared(reader: LanguageModel) -> None:
    train = {group: prompts(0, group) for group in MARKS}
    test = {group: prompts(1, group) for group in MARKS}
    found = {}
    for separate in (False, True):
        lm = planted(reader, separate=separate)
        found[separate] = measure_transfer(
            lm, train, test, log_odds([0]), layer=1, draws=4, prompts=4
        )
    for matrix in found.values():
        assert np.diag(matrix.removed) == pytest.approx(1, abs=0.1)
        assert matrix.outside_null("removed").diagonal().all()
    shared, separate = (found[key].removed[0, 1] for key in (False, True))
    assert shared > 0.8 and abs(separate) < 0.15
    assert found[False].induced[0, 1] > 0.8
    assert not found[True].outside_null("removed")[0, 1]
    table = found[True].to_dataframe()
    assert len(table) == 4 and table["removed"].notna().all()
    assert found[True].cosine[0, 1] < 0.5 < found[False].cosine[0, 1]
    assert found[True].plot().axes and gate_of(lm).plot().axes
    with pytest.raises(InputError, match="needs two groups"):
        measure_transfer(lm, train, {"red": test["red"]}, log_odds([0]), layer=1)


# The statistics alone


def test_the_null_has_its_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    for lower in (True, False):
        drawn = rng.normal(size=(2000, 20))
        rate = np.mean([beyond(null_p_value(x[0], x[1:], lower=lower), 19) for x in drawn])
        assert 0.035 < rate < 0.065
    assert beyond(null_p_value(9.0, np.zeros(3), lower=False), 3)
    assert not beyond(null_p_value(0.0, np.array([0.0, -1, -1]), lower=False), 3)
    for lower in (True, False):
        assert null_p_value(0.0, np.full(3, np.nan), lower=lower) == 1
        assert null_p_value(np.nan, np.zeros(3), lower=lower) == 1


def test_the_cheapest_direction_that_does_both_is_chosen() -> None:
    bypass, induce = np.array([-9.0, -5, -3, 1]), np.array([1.0, -1, 2, 3])
    assert best_candidate(bypass, induce, np.array([0.2, 0.01, 0.1, 0.0])) == 2
    assert best_candidate(bypass, -np.abs(induce), np.array([0.2, 0.01, 0.1, 0.0])) == 1
    assert best_candidate(bypass, induce, np.array([0.3, 0.4, 0.2, np.nan])) == 2
    assert reasons_against(-1.0, 1.0, 0.1, {"random": True}) == ()
    assert len(reasons_against(np.nan, np.nan, np.nan, {"random": False})) == 4


def test_null_directions_are_units_of_their_covariance() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 5)) * [10, 1, 1, 1, 0] + 100
    drawn = covariance_matched_directions([states, states - 300], 50, rng)
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(1)
    assert np.abs(drawn[:, 0]).mean() > 0.8 and np.abs(drawn[:, 4]).max() < 1e-9
    with pytest.raises(InputError, match="do not vary"):
        covariance_matched_directions([np.ones((3, 5))], 2, rng)
    assert np.abs(random_directions(5, 400, rng).mean(axis=0)).max() < 0.1
    rows = np.array([[1.0, 0, 0], [5, 5, 0], [0, 2, 0]])
    assert np.abs(shared_subspace(rows, 2)[:, 2]).max() < 1e-12


def test_orthogonal_directions_may_depend_on_one_another() -> None:
    """A layer writes the square of one component along the other: ablation shifts the cosine."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(50, 1, 4))

    def through(x: np.ndarray, strength: float) -> np.ndarray:
        out = x.copy()
        out[..., 1] += strength * x[..., 0] ** 2
        return np.concatenate([x, out], axis=1)

    ablated = states * [0, 1, 1, 1]
    axis = np.array([0.0, 1, 0, 0])
    length = np.linalg.norm(states, axis=-1, keepdims=True)
    ablated = ablated / np.linalg.norm(ablated, axis=-1, keepdims=True) * length
    apart = cosine_shift(through(states, 0.0), through(states, 0.0), axis)
    assert apart == pytest.approx(0)
    shift = cosine_shift(through(states, 3.0), through(states * [0, 1, 1, 1], 3.0), axis)
    assert shift[1] > 0.3
    with pytest.raises(InputError, match="length zero"):
        cosine_shift(states, states, 0 * axis)


def test_the_predictor_is_the_matrix_of_held_out_halves(reader: LanguageModel) -> None:
    lm = planted(reader, separate=True)
    rows = [
        {"id": f"{domain} {text}", "prompt": text, "domain": domain, "label": label}
        for domain, group in (("bias", "red"), ("privacy", "blue"))
        for part in (prompts(0, group), prompts(1, group))
        for label, texts in (("harmful", part.positive), ("benign", part.negative))
        for text in texts
    ]
    evidence: Any = SimpleNamespace(
        lm=lm,
        domains=("bias", "privacy", "safety"),
        responses=pd.DataFrame(rows).assign(split="train"),
        harmful={
            domain: pd.DataFrame(
                [r for r in rows if r["domain"] == domain and r["label"] == "harmful"]
            )
            for domain in ("bias", "privacy")
        },
        read_log_odds=log_odds([0]),
        batch_size=8,
    )
    found = intervention_transfer(evidence)
    removed = found["removed, depth 0.5"]
    assert np.isnan(removed[2]).all() and np.isnan(removed[:, 2]).all()
    assert removed[0, 0] > 0.8 and abs(removed[0, 1]) < 0.2
    assert set(found) == {
        f"{kind}, depth {depth}"
        for kind in ("removed", "induced", "dependence")
        for depth in (0.25, 0.5, 0.75)
    }


def test_a_report_shows_the_gate_or_the_command(reader: LanguageModel, tmp_path: Path) -> None:
    config = {"model": "some/model"}
    record: Any = SimpleNamespace(folder=tmp_path, config=config, model_options={})
    assert gate_view(record)["command"] == "spillover doctor some/model --gate --run FOLDER"
    record.model_options = {
        "system": "Be kind.", "device": "cpu", "trust_remote_code": True, "template": "{{ m }}",
        "template_arguments": {"a": False, "b": "1"},
    }  # fmt: skip
    asked = ["--system", "Be kind.", "--chat-template", "FILE", "--chat-template-arg", "a=false"]
    asked += ["--chat-template-arg", 'b="1"', "--trust-remote-code", "--gate", "--run", "FOLDER"]
    assert shlex.split(gate_view(record)["command"])[3:] == asked
    values = named_values(["a=false", 'b="1"'], "--chat-template-arg")
    assert values == record.model_options["template_arguments"]
    with pytest.raises(InputError, match="has no manifest.json"):
        weights_of_run(tmp_path, measured=True)
    write_json(tmp_path / "manifest.json", {"hashes": {"model": "of some model"}})
    assert weights_of_run(tmp_path, measured=True) == "of some model"
    with pytest.raises(InputError, match="give --gate"):
        weights_of_run(tmp_path, measured=False)
    require_chat_of_run(tmp_path, {"before": "<|user|>"})  # an older run kept no format
    write_json(tmp_path / "config.json", {"chat": {"before": "<|user|>", "thoughts": ["<t>"]}})
    require_chat_of_run(tmp_path, {"before": "<|user|>", "thoughts": ("<t>",), "fallback": False})
    with pytest.raises(InputError, match="another chat format.*--system"):
        require_chat_of_run(tmp_path, {"before": "Be kind.<|user|>"})
    why = "it would take 28% of the work of this run"
    write_json(tmp_path / GATE_FILE, {"line": "", "massive": "", "why": why})
    view = gate_view(record)
    assert view["why"] == why and view["command"] and not view["line"]
    gate = gate_of(planted(reader))
    write_json(tmp_path / GATE_FILE, gate.summary())
    view = gate_view(record)
    assert view["line"].startswith("passed: ") and not view["command"]


@pytest.mark.slow
def test_the_gate_goes_into_the_folder_of_a_run_of_the_same_weights(
    spillover: Spillover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPILLOVER_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    shutil.copytree(example_run().record.folder, run)
    code, said, wrong = spillover("doctor", "organism", "--gate", "--run", str(run))
    assert code == 0, wrong
    assert read_json(run / GATE_FILE)["line"] in said
    assert "time: about" in wrong and "direction gate: answers" in wrong
    (kept,) = user_cache("gates").glob("*/gate-*.jsonl")
    lines = kept.read_text()
    assert spillover("doctor", "organism", "--gate", "--no-step")[1].splitlines()[-1] in said
    assert kept.read_text() == lines  # nothing was read under an edit again
    manifest = read_json(run / "manifest.json")
    write_json(run / "manifest.json", {**manifest, "hashes": {"model": "of another model"}})
    code, _, wrong = spillover("doctor", "organism", "--gate", "--run", str(run))
    assert code == 2 and "other weights than" in wrong


def test_a_gate_of_another_readout_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree that is learned from other samples reads other log-odds from the same answers."""
    monkeypatch.setattr(study_gate, "_why_not", lambda *_: "it is not asked for")
    path = tmp_path / GATE_FILE

    def line(prefixes: ResponsePrefixes) -> str:
        context: Any = SimpleNamespace(
            run=SimpleNamespace(folder=tmp_path), fingerprint="weights",
            progress=SimpleNamespace(say=lambda _: None),
        )  # fmt: skip
        inputs = Inputs(("answers",), {})
        study_gate.write_gate(context, SimpleNamespace(inputs=inputs, prefixes=prefixes))  # type: ignore[arg-type]
        return str(read_json(path)["line"])

    tree, other = (ResponsePrefixes(((number,),), ((9,),)) for number in (1, 2))
    assert line(tree) == ""
    write_json(path, read_json(path) | {"line": "measured"})
    assert line(tree) == "measured" and line(other) == ""
    write_json(path, {"weights": "weights", "line": "by doctor"})  # which knows the weights alone
    assert line(tree) == "by doctor"
