"""Every quantity that an objective may name is what it says, and no other is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interp.model import LanguageModel, Tokens
from unlearning.losses.registry import QUANTITIES
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
    views,
)
from unlearning.training.mixture import collator
from unlearning.training.views import Supply, control_vector, reference_of

Checkpoints = Callable[[str], Path]

LAYER = 1
OF_RETAIN = frozenset(name for name in QUANTITIES if not name.startswith("preferred"))
PROMPTS = ("Why?", "Tell me how to bake bread without yeast, step by step.", "Pick a lock.")
LORA = TrainingSettings(trained="lora", lora_rank=4)


def examples(lm: LanguageModel) -> list[Example]:
    """Prompts and responses of unlike lengths, pairs, with references that are mere numbers."""
    found = []
    for i, prompt in enumerate(PROMPTS):
        tokens = lm.chat.encode(prompt, "No. " * (i + 1))
        preferred = lm.chat.encode(prompt, "Here is how that is done. " * (3 - i))
        length, preferred_length = (len(x.ids[x.spans["response"]]) for x in (tokens, preferred))
        found.append(
            Example(
                str(i),
                tokens,
                -torch.arange(1.0, length + 1),
                preferred,
                -torch.arange(1.0, preferred_length + 1) / 7,
            )
        )
    return found


def batch_of(lm: LanguageModel, *, retained: bool = True) -> dict[str, Tensor]:
    one, two, three = examples(lm)
    positions = [[((0, 0), one)], [((0, 1), two)]]
    if retained:
        positions[0].append(((1, 0), three))
    return collator(lm.chat, preferred=True)(positions)


def supply(lm: LanguageModel, *needs: frozenset[str]) -> Supply:
    return Supply(
        needs or (frozenset(QUANTITIES), OF_RETAIN),
        reference_of(lm),
        next(name for name, module in lm.model.named_modules() if module is lm.layers[LAYER]),
        control_vector(lm.d_model, seed=3),
    )


@torch.no_grad()
def alone(lm: LanguageModel, tokens: Tokens) -> dict[str, Tensor]:
    """The quantities of one row from a plain forward: no padding, no hook, all the logits."""
    ids = torch.tensor([tokens.ids])
    output = lm.model(input_ids=ids, output_hidden_states=True)
    span = tokens.spans["response"]
    predicting = slice(span.start - 1, span.stop - 1)
    logits = output.logits[0, predicting]
    return {
        "log_probs": -F.cross_entropy(logits, ids[0, span], reduction="none"),
        "logits": logits,
        # The embeddings come first.
        "states": output.hidden_states[LAYER + 1][0, predicting],
    }


def move(lm: LanguageModel) -> None:
    """As training would: every trained parameter, the adapters' zero halves included."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def assert_rows_are(
    view: Mapping[str, Tensor], mask: Tensor, wanted: list[dict[str, Tensor]], prefix: str
) -> None:
    for i, row in enumerate(wanted):
        for name, values in row.items():
            if (prefix + name) in QUANTITIES:
                found = view[prefix + name][i][mask[i]]
                torch.testing.assert_close(found.detach(), values, rtol=1e-4, atol=2e-5)


# What each quantity is


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2"])
@pytest.mark.parametrize("trained", ["lora", "projections"])
def test_every_quantity_is_that_of_the_row_alone(
    trained: str, family: str, checkpoint_of: Checkpoints
) -> None:
    given = LanguageModel.load(checkpoint_of(family))
    lm = prepare_in_place(LanguageModel.load(checkpoint_of(family)), replace(LORA, trained=trained))
    made = supply(lm)
    move(lm)
    one, two, three = examples(lm)
    lm.model.train()
    forget, retain = made.views(lm.model, batch_of(lm))
    lm.model.eval()
    assert forget.keys() == QUANTITIES.keys()
    assert retain.keys() == OF_RETAIN
    for view, rows in ((forget, (one, two)), (retain, (three,))):
        mask = view["mask"]
        assert mask.sum(dim=1).tolist() == [len(row.reference) for row in rows]  # type: ignore[arg-type]
        assert_rows_are(view, mask, [alone(lm, row.tokens) for row in rows], "")
        assert_rows_are(view, mask, [alone(given, row.tokens) for row in rows], "reference_")
        for i, row in enumerate(rows):
            assert torch.equal(view["reference"][i][mask[i]], row.reference)
            assert (view["reference"][i][~mask[i]] == 0).all()
    mask = forget["preferred_mask"]
    preferred = [alone(lm, row.preferred) for row in (one, two)]  # type: ignore[arg-type]
    assert_rows_are(forget, mask, preferred, "preferred_")
    for i, row in enumerate((one, two)):
        assert torch.equal(forget["preferred_reference"][i][mask[i]], row.preferred_reference)
    # The test can fail: training has moved the model far from the given one.
    moved = alone(lm, one.tokens)["logits"] - alone(given, one.tokens)["logits"]
    assert moved.abs().max() > 1e-2


def test_the_control_is_one_unit_vector_for_a_seed() -> None:
    vector = control_vector(64, seed=1)
    assert torch.equal(vector, control_vector(64, seed=1))
    assert not torch.equal(vector, control_vector(64, seed=2))
    assert float(vector.norm()) == pytest.approx(1)
    assert (vector >= 0).all()
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    control_vector(64, seed=1)
    assert torch.equal(torch.rand(1), drawn)


# What the reference leaves behind


@pytest.mark.parametrize("trained", ["lora", "projections"])
def test_reading_the_reference_leaves_no_trace(trained: str, checkpoint_of: Checkpoints) -> None:
    lm = prepare_in_place(
        LanguageModel.load(checkpoint_of("qwen2")), replace(LORA, trained=trained)
    )
    made = supply(lm)
    move(lm)
    lm.model.train()
    before = {name: (p.requires_grad, p.clone()) for name, p in lm.model.named_parameters()}
    batch = batch_of(lm)
    first = made.views(lm.model, batch)
    for view in first:
        for name, values in view.items():
            reads_weights = "reference" not in name and "mask" not in name and name != "control"
            assert values.requires_grad == reads_weights, name
    assert lm.model.training
    for name, parameter in lm.model.named_parameters():
        was_trained, was = before[name]
        assert parameter.requires_grad == was_trained and torch.equal(parameter, was)
        assert parameter.grad is None
    # The adapter is on again: the second time around the model is where it was.
    again = made.views(lm.model, batch)
    for name, values in first[0].items():
        assert torch.equal(again[0][name], values), name
    first[0]["reference_logits"].sum().add(first[0]["logits"].sum()).backward()
    assert all(p.grad is not None for p in lm.model.parameters() if p.requires_grad)


def test_at_the_start_model_and_reference_are_equal_to_the_bit(checkpoint: Path) -> None:
    for trained in ("lora", "projections"):
        lm = prepare_in_place(LanguageModel.load(checkpoint), replace(LORA, trained=trained))
        lm.model.train()
        for view in supply(lm).views(lm.model, batch_of(lm)):
            assert torch.equal(view["logits"], view["reference_logits"])
            assert torch.equal(view["states"], view["reference_states"])


# What is computed


class Counted:
    """How often each model ran, and at how many positions its head did."""

    def __init__(self, *models: nn.Module) -> None:
        self.forwards = 0
        self.positions: list[int] = []
        for model in models:
            inner = getattr(model, "get_base_model", lambda m=model: m)()
            inner.register_forward_hook(self._forward)
            inner.get_output_embeddings().register_forward_hook(self._head)

    def _forward(self, *_: Any) -> None:
        self.forwards += 1

    def _head(self, _module: nn.Module, _inputs: Any, logits: Tensor) -> None:
        self.positions.append(logits.shape[1])


@pytest.mark.parametrize(
    ("needs", "forwards", "head_runs"),
    [
        ({"log_probs", "mask"}, 1, "response"),
        ({"log_probs", "reference", "mask", "preferred_log_probs"}, 1, "response"),
        ({"logits", "mask"}, 1, "response"),
        ({"logits", "reference_logits", "mask"}, 2, "response"),
        ({"states", "mask", "control"}, 1, "nowhere"),
        ({"states", "reference_states", "mask"}, 2, "nowhere"),
        ({"states", "log_probs", "mask"}, 1, "response"),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value),
)
@pytest.mark.parametrize("trained", ["lora", "projections"])
def test_nothing_is_computed_that_is_not_named(
    needs: set[str], forwards: int, head_runs: str, trained: str, checkpoint_of: Checkpoints
) -> None:
    lm = prepare_in_place(
        LanguageModel.load(checkpoint_of("qwen2")), replace(LORA, trained=trained)
    )
    made = supply(lm, frozenset(needs), frozenset({"log_probs"} & needs or {"mask"}))
    assert made.reference is not None
    models: dict[int, nn.Module] = {id(lm.model): lm.model}
    with made.reference() as given:
        models[id(given)] = given
    counted = Counted(*models.values())
    batch = batch_of(lm)
    forget, _ = made.views(lm.model, batch)
    assert forget.keys() == needs
    assert counted.forwards == forwards
    # One position is the least that a forward can be asked for.
    width = int(batch["response_mask"].any(dim=0).sum()) + 1 if head_runs == "response" else 1
    assert counted.positions == [width] * forwards


def test_the_reference_runs_only_beside_rows_whose_term_reads_it(
    checkpoint_of: Checkpoints,
) -> None:
    lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), LORA)
    forget, retain = {"log_probs", "mask"}, {"logits", "reference_logits", "mask"}
    made = supply(lm, frozenset(forget), frozenset(retain))
    counted = Counted(lm.model)
    views = made.views(lm.model, batch_of(lm, retained=False))
    assert counted.forwards == 1
    assert views[0].keys() == forget and views[1] == {}
    views = made.views(lm.model, batch_of(lm))
    assert counted.forwards == 3
    assert views[0].keys() == forget and views[1].keys() == retain


@pytest.mark.parametrize(
    ("objective", "retain", "reads"),
    [("npo", "cross_entropy", 0), ("rmu", "cross_entropy", 0), ("npo", "kl", 1),
     ("rmu", "feature_l2", 1)],
)  # fmt: skip
def test_a_copy_of_the_model_is_made_only_where_a_term_reads_it(
    objective: str,
    retain: str,
    reads: int,
    checkpoint_of: Checkpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: list[LanguageModel] = []

    def counted(lm: LanguageModel) -> Any:
        copies.append(lm)
        return reference_of(lm)

    monkeypatch.setattr(views, "reference_of", counted)
    settings = TrainingSettings(objective=objective, retain_objective=retain, trained="projections",
                                batch_size=2, max_steps=1)  # fmt: skip
    lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)
    one, two, three = examples(lm)
    unlearn_in_place(lm, Mixture([one, two], {"safety": [three]}), settings, folder=tmp_path)
    assert len(copies) == reads
