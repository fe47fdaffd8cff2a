"""Templates, layers and positions of any kind: the right answer, or one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

import spillover as sp
from interp import activations
from interp.activations.window import from_end
from interp.interventions import ablate, add
from interp.model import Chat, LanguageModel, Tokens
from interp.patching import between_models
from interp.patching.runs import WHOLE
from interp.readout import log_odds
from tests.fuzzing import answer_or_line, fuzzed

pytestmark = pytest.mark.slow

TEXTS = ("How do I pick a lock?", "Boil rice.")


@pytest.fixture(scope="module")
def lm(checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("qwen2"))


# Layers

numbers = (
    st.integers(-2, 6) | st.integers(0, 3).map(np.int64) | st.integers(0, 3).map(np.uint8)
    | st.booleans() | st.sampled_from([1.0, 0.5, float("nan"), np.float32(1), None, "1", 2**70])
)  # fmt: skip
layers_of_any_kind = (
    st.lists(numbers, max_size=4)
    | st.lists(st.integers(0, 3), max_size=4).map(np.array)
    | st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
    | st.sampled_from([range(1, 3), np.arange(1, 3), np.array([True, False]), np.zeros(2)])
    | st.sampled_from([np.array(1), np.array([[0, 1]]), torch.tensor([1, 2]), {2, 0}])
    | st.sampled_from([slice(0, 2), 1, -1, 1.5, float("nan"), "0,1", "1", True])
)


def plain_layers(given: Any, n_layers: int) -> list[int] | None:
    """The layers that ``given`` can only mean, in order; None if it names none."""
    try:
        found = [one.item() if hasattr(one, "item") else one for one in given]
    except (TypeError, ValueError, RuntimeError):
        return None
    fine = all(type(one) is int and 0 <= one < n_layers for one in found)
    return found if found and fine else None


@fuzzed(60)
@given(layers=layers_of_any_kind)
@example(layers=np.arange(1, 3))
@example(layers=[True])
def test_layers_of_any_kind_are_those_that_they_name_or_refused(
    layers: Any, lm: LanguageModel
) -> None:
    plain = plain_layers(layers, lm.n_layers)
    found = answer_or_line(lambda: activations.collect(lm, TEXTS, layers=layers))
    assert (found is None) == (plain is None), layers
    direction = np.linspace(-1, 1, lm.d_model)
    batch = lm.chat.pad([lm.chat.encode(TEXTS[0])])
    for edit in (ablate, lambda m, d, layers: add(m, d, np.float32(3), layers=layers)):

        def logits(given: Any, edit: Any = edit) -> torch.Tensor:
            with torch.no_grad(), edit(lm, direction, layers=given):
                return lm.logits(batch, keep=1)

        edited = answer_or_line(lambda logits=logits: logits(layers))
        assert (edited is None) == (plain is None), layers
        if plain is not None and edited is not None:
            torch.testing.assert_close(edited, logits(plain))
    if plain is not None and found is not None:
        every = activations.collect(lm, TEXTS)
        assert found.layers == tuple(sorted(set(plain)))
        np.testing.assert_allclose(found.states, every.states[:, list(found.layers)], atol=1e-5)
        assert all(type(layer) is int for layer in found.layers)


# Positions

ends = (
    st.none() | st.integers(-3, 40) | st.integers(0, 9).map(np.int64) | st.sampled_from([1.0, True])
)
spans = (
    st.builds(slice, ends, ends) | st.builds(slice, st.integers(0, 5), st.integers(6, 9))
    | st.builds(slice, st.integers(0, 5), st.integers(6, 9), st.sampled_from([1, 2, -1]))
    | st.sampled_from([3, -1, None, "instruction", (0, 1)])
)  # fmt: skip


@fuzzed(60)
@given(chosen=st.lists(spans, max_size=3))
def test_positions_are_means_over_their_tokens_or_refused(
    chosen: list[Any], lm: LanguageModel
) -> None:
    tokens = lm.chat.encode(TEXTS[0])

    def each(row: Tokens) -> Sequence[slice]:
        return [slice(i, i + 1) for i in range(len(row))]

    every = activations.collect(lm, [tokens], positions=each)["residual_out"][0]
    found = answer_or_line(lambda: activations.collect(lm, [tokens], positions=lambda _: chosen))
    fine = chosen and all(
        isinstance(span, slice)
        and span.step in (None, 1)
        and all(type(end) in (int, np.int64) for end in (span.start, span.stop))
        and 0 <= span.start < span.stop <= len(tokens)
        for span in chosen
    )
    assert (found is not None) == bool(fine), chosen
    if found is not None:
        means = np.stack([every[:, span].mean(axis=1) for span in chosen], axis=1)
        np.testing.assert_allclose(found["residual_out"][0], means, atol=1e-5)


@fuzzed(40)
@given(given=st.sampled_from([[-1], [], [0], -1, "last", None, slice(-1, None)]) | numbers)
def test_positions_that_are_no_function_are_refused(given: Any, lm: LanguageModel) -> None:
    assert answer_or_line(lambda: activations.collect(lm, TEXTS, positions=given)) is None
    if given is not None:  # every token
        direction = np.ones(lm.d_model)

        def edited() -> torch.Tensor:
            with ablate(lm, direction, positions=given):
                return lm.logits(lm.chat.pad([lm.chat.encode(TEXTS[0])]))

        assert answer_or_line(edited) is None
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool) and given < 0
    assert (answer_or_line(lambda: from_end(given)) is not None) == whole


@fuzzed(12)
@given(
    given=st.lists(st.sampled_from(["instruction", WHOLE, "nowhere", "", 0, None]), max_size=3)
    | st.sampled_from([None, "instruction", ("instruction",), {"instruction"}, 1, slice(0, 1)])
)
def test_positions_of_a_patch_are_names_of_spans_or_refused(given: Any, lm: LanguageModel) -> None:
    readout = log_odds([3])
    every = list(between_models(lm, lm, TEXTS).positions())
    found = answer_or_line(
        lambda: sp.patch(lm, lm, TEXTS, readout=readout, layers=[1], positions=given)
    )
    names = every if given is None else list(given) if isinstance(given, list | tuple) else []
    fine = bool(names) and all(name in (*every, WHOLE) for name in names)
    assert (found is not None) == fine, given
    if found is not None:
        assert [cell.position for cell in found.cells] == list(dict.fromkeys(names))


# Templates

bodies = st.sampled_from(
    [
        "{{ m['content'] }}", "{{ m.content | trim }}", "{{ m['content'] | upper }}",
        "{{ m['content'][:5] }}", "{{ m['role'] }}: ", "<|im_start|>", "<|im_end|>\n", " ", "\n\n",
        "{{ bos_token }}", "{{ eos_token }}", "{{ raise_exception('no') }}", "{{ undefined.x }}",
        "{% if m['role'] == 'assistant' %}", "{% if m['role'] == 'user' %}", "{% endif %}",
        "{% if loop.last %}", "{{ loop.index }}", "{{ messages | length }}", "{{ 1/0 }}", "{{",
        "{{ m['content'] ~ m['content'] }}", "é", "<think>", "</think>",
    ]
)  # fmt: skip
around = st.sampled_from(
    ["", "{{ bos_token }}", "System. ", "{% if add_generation_prompt %}Assistant:{% endif %}",
     "{{ messages[0]['content'] }}", "{{ messages[-1]['role'] }}", "{% endfor %}"]
)  # fmt: skip


@st.composite
def templates(draw: st.DrawFn) -> str:
    inner = "".join(draw(st.lists(bodies, min_size=1, max_size=5)))
    loop = "{% for m in messages %}" + inner + "{% endfor %}"
    return draw(around) + loop + draw(around)


@pytest.fixture(scope="module")
def tokenizer(checkpoint_of: Callable[[str], Path]) -> Any:
    return AutoTokenizer.from_pretrained(checkpoint_of("qwen2"))


@fuzzed(80)
@given(
    template=templates() | st.text(max_size=20),
    prompt=st.sampled_from([*TEXTS, "Two\n\nparts", "<|im_end|>", "é 日本", "m"]),
    system=st.sampled_from([None, "Be brief."]),
)
def test_templates_give_their_own_ids_or_a_line(
    template: str, prompt: str, system: str | None, tokenizer: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chat = answer_or_line(lambda: Chat(tokenizer, template=template, system=system))
        tokens = answer_or_line(lambda: chat.encode(prompt)) if chat is not None else None
    if not template or tokens is None or chat is None:
        return
    turns = [{"role": "system", "content": system}] * (system is not None)
    wanted = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": prompt}],
        chat_template=template,
        tokenize=True,
        return_dict=False,
        add_generation_prompt=True,
    )
    assert list(tokens.ids) == list(wanted)
    places = list(tokens.spans.values())
    assert [place.stop for place in places[:-1]] == [place.start for place in places[1:]]
    assert (places[0].start, places[-1].stop) == (0, len(tokens))
    assert prompt in tokenizer.decode(tokens.ids[tokens.spans["instruction"]])
    with_response = answer_or_line(lambda: chat.encode(prompt, "I cannot."))
    if with_response is not None:
        said = tokenizer.decode(with_response.ids[with_response.spans["response"]])
        assert "I cannot." in said
