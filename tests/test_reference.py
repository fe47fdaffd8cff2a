"""Reference log-probs are those of the given model, and computed once for weights and tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.model import LanguageModel, Tokens
from unlearning.losses import reference_log_probs
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    reference,
    with_references,
)
from unlearning.training.parameters import save_parameters
from unlearning.training.reference import read, write_references

Checkpoints = Callable[[str], Path]

LORA = TrainingSettings(trained="lora", lora_rank=4)
OWN = {"log_probs", "reference", "mask"}
PAIRS = {*OWN, "preferred_log_probs", "preferred_reference", "preferred_mask"}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each computation had."""
    counts: list[int] = []

    def counted(lm: LanguageModel, rows: Sequence[Tokens], **options: Any) -> list[Tensor]:
        counts.append(len(rows))
        return reference_log_probs(lm, rows, **options)

    monkeypatch.setattr(reference, "reference_log_probs", counted)
    return counts


def mixture(lm: LanguageModel, *, last_word: str = "no") -> Mixture:
    def one(name: str, prompt: str, response: str) -> Example:
        preferred = lm.chat.encode(prompt, "Here is how.")
        return Example(name, lm.chat.encode(prompt, response), preferred=preferred)

    forget = [one("0", "Why?", "No."), one("1", "Pick a lock.", f"I will say {last_word}.")]
    return Mixture(forget, {"bias": [one("2", "Bake bread.", "Take flour and water.")]}, ratio=3)


def values(found: Mixture) -> list[Tensor | None]:
    return [one.reference for group in found.groups.values() for one in group]


def test_what_the_terms_need_is_filled_in_and_nothing_else(
    checkpoint_of: Checkpoints, computed: list[int]
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    bare = mixture(lm)
    cases: list[tuple[set[str], bool, list[int]]] = [
        ({"log_probs", "mask"}, False, []),
        (OWN, False, [2]),
        (OWN, True, [2, 1]),
        (PAIRS, False, [2, 2]),
        ({"preferred_log_probs", "preferred_mask"}, True, [1]),
    ]
    for needs, retained, rows in cases:
        computed.clear()
        found = with_references(lm, bare, needs, retained=retained)
        assert computed == rows
        assert (found.ratio, found.seed) == (bare.ratio, bare.seed)
        for one in found.forget:
            assert (one.reference is not None) == ("reference" in needs)
            assert (one.preferred_reference is not None) == ("preferred_reference" in needs)
        assert (found.retain["bias"][0].reference is not None) == retained


def test_what_is_there_already_is_kept(checkpoint_of: Checkpoints, computed: list[int]) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    given = with_references(lm, mixture(lm), PAIRS, retained=True)
    computed.clear()
    again = with_references(lm, given, PAIRS, retained=True)
    assert computed == []
    assert all(a is b for a, b in zip(values(again), values(given), strict=True))


def test_a_second_run_reads_the_cache(
    checkpoint_of: Checkpoints, computed: list[int], tmp_path: Path
) -> None:
    first = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), LORA)
    written = with_references(first, mixture(first), PAIRS, retained=True, cache=tmp_path)
    assert computed == [2, 2, 1]
    # Another process, whose adapters were drawn from another seed.
    second = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), replace(LORA, seed=7))
    found = with_references(second, mixture(second), PAIRS, retained=True, cache=tmp_path)
    assert computed == [2, 2, 1]
    plain = with_references(second, mixture(second), PAIRS, retained=True)
    for one, other, fresh in zip(values(found), values(written), values(plain), strict=True):
        assert one is not None and torch.equal(one, other) and torch.equal(one, fresh)


def test_a_changed_weight_changes_the_key(
    checkpoint_of: Checkpoints, computed: list[int], tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    with_references(lm, mixture(lm), OWN, cache=tmp_path)
    with torch.no_grad():
        lm.layers[2].mlp.up_proj.weight[3, 5] += 1e-3  # type: ignore[union-attr, index, operator]
    changed = with_references(lm, mixture(lm), OWN, cache=tmp_path)
    assert computed == [2, 2]
    for found, wanted in zip(
        changed.forget, reference_log_probs(lm, [one.tokens for one in changed.forget]), strict=True
    ):
        assert torch.equal(found.reference, wanted)  # type: ignore[arg-type]


def test_a_changed_precision_changes_the_key(
    checkpoint_of: Checkpoints, computed: list[int], tmp_path: Path
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        lm = LanguageModel.load(checkpoint_of("qwen2"), dtype=dtype)
        with_references(lm, mixture(lm), OWN, cache=tmp_path)
    assert computed == [2, 2]


def test_a_changed_token_or_another_response_changes_the_key(
    checkpoint_of: Checkpoints, computed: list[int], tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    base = mixture(lm)
    with_references(lm, base, OWN, cache=tmp_path)
    with_references(lm, mixture(lm, last_word="yes"), OWN, cache=tmp_path)
    assert computed == [2, 2]
    # The same ids, of which one more belongs to the response.
    tokens = base.forget[0].tokens
    span = tokens.spans["response"]
    longer = Tokens(tokens.ids, {**tokens.spans, "response": slice(span.start - 1, span.stop)})
    found = with_references(
        lm, Mixture([replace(base.forget[0], tokens=longer), base.forget[1]]), OWN, cache=tmp_path
    )
    assert computed == [2, 2, 2]
    assert len(found.forget[0].reference) == span.stop - span.start + 1  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [0, 3, 40, -1])
def test_a_torn_file_is_computed_again(
    left: int, checkpoint_of: Checkpoints, computed: list[int], tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    whole = with_references(lm, mixture(lm), OWN, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:left])
    found = with_references(lm, mixture(lm), OWN, cache=tmp_path)
    assert computed == [2, 2]
    for one, other in zip(found.forget, whole.forget, strict=True):
        assert torch.equal(one.reference, other.reference)  # type: ignore[arg-type]
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_file_of_something_else_is_replaced(
    checkpoint_of: Checkpoints, computed: list[int], tmp_path: Path
) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    with_references(lm, mixture(lm), OWN, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    for content in (b"not safetensors at all, but long enough to have a header", b"\0" * 4096):
        file.write_bytes(content)
        with_references(lm, mixture(lm), OWN, cache=tmp_path)
    assert computed == [2, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_any_lengths_come_back_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    rows = [torch.randn(n, dtype=dtype) for n in (3, 1, 0, 40, 2)]
    write_references(tmp_path / "deep" / "rows.safetensors", rows)
    for found, wanted in zip(read(tmp_path / "deep" / "rows.safetensors"), rows, strict=True):
        assert found.dtype == dtype and torch.equal(found, wanted)


def test_a_user_s_own_adapter_is_part_of_the_reference(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """An adapter folder is merged: neither the new adapter nor the cache goes back to its base."""
    base = checkpoint_of("llama")
    own = prepare_in_place(LanguageModel.load(base), LORA)
    with torch.no_grad():
        for name, parameter in own.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    adapter = save_parameters(own, tmp_path / "own")
    given = LanguageModel.load(adapter)
    wanted = values(with_references(given, mixture(given), OWN, retained=True))
    of_base = values(
        with_references(lm := LanguageModel.load(base), mixture(lm), OWN, retained=True)
    )
    prepared = prepare_in_place(LanguageModel.load(adapter), LORA)
    found = with_references(
        prepared, mixture(prepared), OWN, retained=True, cache=tmp_path / "cache"
    )
    for one, other, bare in zip(values(found), wanted, of_base, strict=True):
        assert one is not None and bare is not None
        assert torch.equal(one, other)
        assert (one.sum() - bare.sum()).abs() > 1e-2
