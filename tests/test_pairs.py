"""Roles cover the words that they name, and pairs of unequal length patch what they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from interp.activations import RESIDUAL_IN, RESIDUAL_OUT
from interp.errors import InputError
from interp.model import LanguageModel
from interp.patching import WHOLE, PromptPairs, between_models, patch, with_each_token, with_roles
from interp.patching.alignment import Alignment
from tests.patched_models import some_log_odds

Checkpoints = Callable[[str], Path]

CLEAN = "Tell me how to repair the carpenter's favourite chair at home."
CORRUPTED = "Tell me how to bake bread at home."
ROLES = (
    {"intent": "repair", "object": "the carpenter's favourite chair"},
    {"intent": "bake", "object": "bread"},
)


def pairs_of_two() -> PromptPairs:
    return PromptPairs((CLEAN, CORRUPTED), (CORRUPTED, CLEAN), ROLES, ROLES[::-1])


def test_roles_cover_their_words_and_spans_tile_the_row(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    for prompt, roles in zip((CLEAN, CORRUPTED), ROLES, strict=True):
        row = with_roles(lm.chat, f" {prompt}\n", roles)
        assert row.ids == lm.chat.encode(prompt).ids
        for role, words in roles.items():
            assert lm.tokenizer.decode(list(row.ids[row.spans[role]])).strip() == words
        end = 0
        for span in row.spans.values():
            assert span.start == end
            end = span.stop
        assert end == len(row)
        assert list(row.spans)[:3] == ["system", "before intent", "intent"]
        last = next(name for name in reversed(row.spans) if name.startswith("post_instruction"))
        assert last == "post_instruction[-1]"


def test_a_role_may_be_the_first_or_the_last_word(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    row = with_roles(lm.chat, "Bake bread", {"intent": "Bake", "object": (5, 10)})
    assert row.spans["intent"].stop <= row.spans["object"].start
    assert lm.tokenizer.decode(list(row.ids[row.spans["object"]])).strip() == "bread"
    assert row.spans["after object"].start == row.spans["after object"].stop


def test_offsets_of_a_role_count_from_the_prompt_as_it_is_given(llama: LanguageModel) -> None:
    start = CLEAN.index("chair")
    wanted = with_roles(llama.chat, CLEAN, {"object": (start, start + 5)})
    shifted = with_roles(llama.chat, f" \n{CLEAN} ", {"object": (start + 2, start + 7)})
    assert shifted == wanted
    beginning = with_roles(llama.chat, CLEAN, {"intent": "Tell"})
    assert with_roles(llama.chat, f"  {CLEAN}", {"intent": (0, 6)}).spans == beginning.spans
    with pytest.raises(InputError, match="are not in"):
        with_roles(llama.chat, f" {CLEAN}", {"object": (start, len(CLEAN) + 2)})


def test_every_template_token_is_a_position(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    plain, split = lm.chat.encode(CLEAN), with_each_token(lm.chat.encode(CLEAN))
    span = plain.spans["post_instruction"]
    names = [f"post_instruction[{i - span.stop}]" for i in range(span.start, span.stop)]
    assert [split.spans[name] for name in names] == [
        slice(i, i + 1) for i in range(span.start, span.stop)
    ]


def test_positions_are_labelled_by_their_text_where_they_have_one(llama: LanguageModel) -> None:
    labels = pairs_of_two().denoising(llama).labels()
    assert labels["intent"] == "intent" and labels["after object"].strip() == "at home."
    assert labels["post_instruction[-1]"] != "post_instruction[-1]"
    one = between_models(llama, llama, [CLEAN], by_token=["instruction"]).labels()
    words = [label for name, label in one.items() if name.startswith("instruction[")]
    assert "".join(words) == CLEAN
    twice = between_models(llama, llama, ["a b a b"], by_token=["instruction"]).labels()
    assert len(set(twice.values())) == len(twice)


def test_spans_are_aligned_at_their_ends(llama: LanguageModel) -> None:
    runs = pairs_of_two().denoising(llama)
    aligned = Alignment.at(runs, "object")
    for i in range(2):
        giving, taking = runs.source_rows[i], runs.target_rows[i]
        padding = [max(map(len, rows)) - len(row) for rows, row in (
            (runs.source_rows, giving), (runs.target_rows, taking))]  # fmt: skip
        columns = aligned.taken[i].nonzero().flatten().tolist()
        start, stop = taking.spans["object"].start, taking.spans["object"].stop
        assert columns == [padding[1] + j for j in range(start, stop)]
        sources = (aligned.columns[i, columns] - padding[0]).tolist()
        given = giving.spans["object"]
        assert sources == sorted(sources)
        assert sources[-1] == given.stop - 1
        assert set(sources) <= set(range(given.start, given.stop))
        assert len(set(sources)) == min(stop - start, given.stop - given.start)


def test_whole_rows_take_span_by_span(llama: LanguageModel) -> None:
    runs = pairs_of_two().denoising(llama)
    whole = Alignment.at(runs, WHOLE)
    for i, row in enumerate(runs.target_rows):
        assert whole.taken[i].sum() == len(row)
    for name in runs.positions():
        part = Alignment.at(runs, name)
        assert torch.equal(whole.columns[part.taken], part.columns[part.taken])


def test_pairs_of_unequal_length_can_be_patched(checkpoint: Path) -> None:
    lm, readout = LanguageModel.load(checkpoint), some_log_odds
    pairs = pairs_of_two()
    last = "post_instruction[-1]" if lm.chat.encode("a").spans["post_instruction"] else WHOLE
    for runs in (pairs.denoising(lm), pairs.noising(lm)):
        found = patch(runs, readout(lm), layers=[3], positions=[last, "intent"])
        assert found.patched[0] == pytest.approx(found.source, abs=2e-5)
        assert found.patched[1] == pytest.approx(found.target, abs=1e-6)
    there, back = pairs.denoising(lm), pairs.noising(lm)
    assert patch(there, readout(lm), layers=[1]).gap == pytest.approx(
        -patch(back, readout(lm), layers=[1]).gap
    )


def test_what_both_have_in_common_has_no_effect_at_the_input(llama: LanguageModel) -> None:
    """Before any layer a token knows only itself: the template's tokens are the same."""
    found = patch(
        pairs_of_two().denoising(llama), some_log_odds(llama), sites=[RESIDUAL_IN], layers=[0]
    )
    for cell, values in zip(found.cells, found.patched, strict=True):
        differs = cell.position in ("intent", "object")
        assert (abs(values - found.target).max() > 1e-4) == differs, cell
    with_itself = PromptPairs((CLEAN,), (CLEAN,), ROLES[:1], ROLES[:1]).denoising(llama)
    same = patch(with_itself, some_log_odds(llama), sites=[RESIDUAL_OUT], layers=[2])
    assert same.patched == pytest.approx(same.target[0])


def test_pairs_that_do_not_fit_are_refused(llama: LanguageModel) -> None:
    with pytest.raises(InputError, match="1 clean and 2 corrupted"):
        PromptPairs((CLEAN,), (CORRUPTED, CLEAN))
    with pytest.raises(InputError, match="pair 0 has the roles intent on its clean side and none"):
        PromptPairs((CLEAN,), (CORRUPTED,), ({"intent": "repair"},))
    for roles, message in (
        ({"intent": "paint"}, "occurs 0 times"),
        ({"intent": "a"}, "occurs [0-9]+ times"),
        ({"intent": (5, 500)}, "not in"),
        ({"one": "repair the", "two": "the carpenter"}, "alone"),
    ):
        with pytest.raises(InputError, match=message):
            with_roles(llama.chat, CLEAN, roles)
