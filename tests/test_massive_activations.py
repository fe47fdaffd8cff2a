"""Tokens of massive activation: found in any model, named, spared where all tokens are edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from interp.activations import HEADS, RESIDUAL_IN, collect, massive_activations, stream_norms
from interp.activations.massive import FACTOR, is_massive
from interp.activations.positions import every_token
from interp.errors import InputError
from interp.interventions import ablate, add, orthogonalise, set_component
from interp.interventions.affine import token_means
from interp.interventions.steering import INSERTED
from interp.model import LanguageModel, Tokens, context_length
from tests.more_families import MORE_FAMILIES, random_model
from tests.patched_models import PROMPTS, last_logits, random_direction

LAYER = 1  # after which the state is massive
DELIMITER = "?"


@pytest.fixture
def llama(checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("llama"))


@contextmanager
def planted(lm: LanguageModel, *texts: str) -> Iterator[None]:
    """Layer 1 writes an enormous vector at the first token and at the given tokens."""
    ids = [lm.chat.encode("x").ids[0]]
    ids += [lm.tokenizer.encode(text, add_special_tokens=False)[0] for text in texts]
    here: list[Tensor] = []
    vector = 1e4 * random_direction(9) * stream_norms_of(lm)
    embed = lm.model.get_input_embeddings()
    remember = embed.register_forward_pre_hook(
        lambda _m, inputs: here.__setitem__(slice(None), [torch.isin(inputs[0], torch.tensor(ids))])
    )

    def write(_module: object, _inputs: object, output: object) -> object:
        bare = output[0] if isinstance(output, tuple) else output
        new = bare + here[0][..., None] * vector
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = lm.layers[LAYER].register_forward_hook(write)
    try:
        yield
    finally:
        remember.remove()
        handle.remove()


def stream_norms_of(lm: LanguageModel) -> float:
    """A typical length of a state, without what the model keeps of it."""
    return float(np.linalg.norm(collect(lm, PROMPTS[:1]).states[0, LAYER])) / 8


def every(lm: LanguageModel) -> np.ndarray:
    """The states of every token of the longest prompt: (layer, token, d_model)."""
    row = lm.chat.encode(PROMPTS[1])
    whole = Tokens(row.ids, {**row.spans, "all": slice(0, len(row))})
    return collect(lm, [whole], positions=every_token("all")).sites["residual_out"][0]


def test_such_tokens_are_found_and_named(llama: LanguageModel) -> None:
    plain = massive_activations(llama)
    assert not plain and "none" in str(plain) and plain.to_dataframe().empty
    assert not stream_norms(llama).first_token
    again = llama.with_model(llama.model)
    with planted(again):
        found = massive_activations(again, [*PROMPTS])
        assert stream_norms(again).first_token
    table = found.to_dataframe()
    assert found and set(table["index"]) == {0} and set(table["prompt"]) == {0, 1, 2, 3}
    assert set(table["layer"]) == {2, 3} and (table["ratio"] > FACTOR).all()
    assert repr(again.tokenizer.decode([again.chat.encode("x").ids[0]])) in str(found)


def test_long_prompts_are_examined_to_their_ends(llama: LanguageModel) -> None:
    row = llama.chat.encode("so " * 100)
    (delimiter,) = llama.tokenizer.encode(DELIMITER, add_special_tokens=False)
    row = Tokens((*row.ids, delimiter), {})
    assert len(row) > 100
    with planted(llama, DELIMITER):
        table = massive_activations(llama, [row]).to_dataframe()
    assert set(table["index"]) == {0, len(row) - 1}
    beyond = massive_activations(llama, [Tokens(row.ids * 20, {})])
    assert beyond.norms[0].shape[1] == context_length(llama.model.config) < 20 * len(row)


EDITS: dict[str, Callable[..., AbstractContextManager[None]]] = {
    "ablate": lambda lm, v, **where: ablate(lm, v, **where),
    "add": lambda lm, v, **where: add(lm, v, layers=[0, 2], **where),
    "set": lambda lm, v, **where: set_component(lm, v, 1.0, **where),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_of_all_tokens_spares_them_unless_asked(
    edit: Callable[..., AbstractContextManager[None]], llama: LanguageModel
) -> None:
    with planted(llama):
        before = every(llama)
        with edit(llama, random_direction()):
            spared = every(llama)
        with edit(llama, random_direction(), include_massive=True):
            included = every(llama)
    # The first token reads no other one, so its states are exactly as they were, at all layers.
    assert np.array_equal(spared[:, 0], before[:, 0])
    assert np.abs(included[:, 0] - before[:, 0]).max() > 1e-3
    assert np.abs(spared[2:, 1:] - before[2:, 1:]).max(axis=(0, 2)).min() > 1e-4


def test_without_such_tokens_nothing_is_different(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    with ablate(lm, random_direction(), include_massive=True):
        wanted = last_logits(lm)
    with ablate(lm, random_direction()):
        assert torch.equal(last_logits(lm), wanted)


def test_means_of_prompts_leave_them_out_where_they_are_massive(llama: LanguageModel) -> None:
    (delimiter,) = llama.tokenizer.encode(DELIMITER, add_special_tokens=False)
    rows = [llama.chat.encode(prompt) for prompt in PROMPTS]
    assert any(delimiter in row.ids for row in rows)
    wanted = []
    with planted(llama, DELIMITER):
        found = token_means(llama, rows, ending=2, batch_size=3).means
        for row in rows:
            whole = Tokens(row.ids, {"all": slice(0, len(row))})
            found_at = collect(llama, [whole], positions=every_token("all"), sites=[RESIDUAL_IN])
            states = found_at.sites["residual_in"][0]
            means = states[:, 1:-2].mean(axis=1)
            ordinary = np.array(row.ids[1:-2]) != delimiter
            means[LAYER + 1 :] = states[LAYER + 1 :, 1:-2][:, ordinary].mean(axis=1)
            wanted.append(np.concatenate([means[:, None], states[:, -2:]], axis=1))
    assert found == pytest.approx(np.mean(wanted, axis=0), rel=1e-4, abs=1e-4)


def test_padding_batches_and_a_cache_do_not_matter(llama: LanguageModel) -> None:
    rows = [llama.chat.encode(prompt).ids for prompt in PROMPTS]
    # A delimiter in the response is massive too: a step of the generation sees this token alone.
    rows = [
        (*ids, *llama.tokenizer.encode(DELIMITER + " so", add_special_tokens=False)) for ids in rows
    ]
    with planted(llama, DELIMITER), torch.no_grad():
        with ablate(llama, random_direction()):
            together = llama.logits(llama.chat.pad([Tokens(ids, {}) for ids in rows]), keep=3)
            for ids, wanted in zip(rows, together, strict=True):
                alone = llama.logits(llama.chat.pad([Tokens(ids, {})]), keep=3)[0]
                torch.testing.assert_close(alone, wanted, atol=1e-4, rtol=1e-4)
                cache, steps = None, []
                parts = [ids[:-2], *((token,) for token in ids[-2:])]
                for part in parts:
                    output = llama.model(
                        input_ids=torch.tensor([part]), past_key_values=cache, use_cache=True
                    )
                    cache = output.past_key_values
                    steps.append(output.logits[0, -1])
                torch.testing.assert_close(torch.stack(steps), wanted, atol=1e-4, rtol=1e-4)
        with ablate(llama, random_direction(), include_massive=True):
            other = llama.logits(llama.chat.pad([Tokens(ids, {}) for ids in rows]), keep=3)
    assert (other - together).abs().max() > 1e-3


def test_they_are_spared_inside_an_adapter(llama: LanguageModel) -> None:
    adapted = llama.with_model(
        get_peft_model(llama.model, LoraConfig(r=2, target_modules="all-linear"))
    )
    with planted(adapted):
        before = every(adapted)
        with ablate(adapted, random_direction()):
            found = every(adapted)
    assert np.array_equal(found[:, 0], before[:, 0]) and not np.array_equal(found, before)


def test_what_another_edit_made_long_is_not_massive(llama: LanguageModel) -> None:
    one, two = random_direction(1), random_direction(2)
    two -= (two @ one) / (one @ one) * one
    huge = 1e3 * float(np.linalg.norm(every(llama)[0, -1]))
    with set_component(llama, one, huge, layers=[0]), ablate(llama, two, sites=[RESIDUAL_IN]):
        found = collect(llama, PROMPTS, sites=[RESIDUAL_IN]).states
    assert np.abs(found[:, 0] @ (two / two.norm()).numpy()).max() < 1e-5
    with set_component(llama, one, huge, layers=[1]), ablate(llama, one, layers=[1]):
        found = collect(llama, PROMPTS, layers=[1]).states
    assert np.abs(found).max() < huge


@pytest.mark.parametrize("family", ["qwen3", "phi"])  # heads of another width, and of the same
def test_what_is_added_to_heads_is_not_along_the_stream(family: str) -> None:
    lm = random_model(*MORE_FAMILIES[family])
    width = collect(lm, PROMPTS, sites=[HEADS])[HEADS][0, 0, 0].size
    vector = random_direction(0, width)
    before = last_logits(lm)
    for made in (
        add(lm, vector, layers=[1], sites=[HEADS]),
        set_component(lm, vector, 1.0, layers=[1], sites=[HEADS]),
    ):
        with made:
            assert not lm.found_out.get(INSERTED)
            assert (last_logits(lm) - before).abs().max() > 1e-6
    stream = random_direction(1, lm.d_model)
    with add(lm, stream, layers=[0]), add(lm, vector, layers=[1], sites=[HEADS]):
        assert len(lm.found_out[INSERTED]) == 1
        last_logits(lm)


def test_weights_cannot_spare_them_and_say_so(llama: LanguageModel) -> None:
    with planted(llama), pytest.warns(UserWarning, match="massive activations .the first token"):
        orthogonalise(llama, random_direction())


def test_one_text_is_not_taken_for_a_list_of_letters(llama: LanguageModel) -> None:
    for read in (massive_activations, collect):
        with pytest.raises(InputError, match=r"a single text; give \['How do I"):
            read(llama, "How do I bake bread?")


def test_the_rule_is_a_length() -> None:
    states = torch.tensor([[3.0, 4.0], [0.0, 5.1], [50.0, 0.0]])
    assert is_massive(states, 5.0).flatten().tolist() == [False, True, True]
    assert is_massive(states, 5.0, torch.tensor([[1.0, 0.0]])).flatten().tolist() == [
        False, True, False]  # fmt: skip
    assert not is_massive(states.bfloat16(), float("inf")).any()
