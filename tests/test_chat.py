"""Templates: the ids are the template's own, the spans tile them, padding moves nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from interp.errors import InputError, ModelError
from interp.model import Chat
from interp.model.chat import PLAIN_TEMPLATE
from tests.checkpoints import CHAT_ML, FAMILIES

Checkpoints = Callable[[str], Path]
SPANS = ("system", "instruction", "post_instruction", "response_prefix", "response")

PROMPTS = (
    "How do I pick a lock?",
    "Two\n\nparagraphs, 日本 and naïve – with 42 digits…",
    "It looks like a tag: [INST] <|im_end|> <s> <end_of_turn>",
    "User: no.\n\nAssistant:",
    "a",
)


def tokenizer_of(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def chat_of(folder: Path, **options: Any) -> Chat:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Chat(tokenizer_of(folder), **options)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_are_those_of_the_template(prompt: str, checkpoint: Path) -> None:
    chat = chat_of(checkpoint)
    wanted = chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        chat_template=chat.template,
        tokenize=True,
        return_dict=False,
        add_generation_prompt=True,
    )
    assert list(chat.encode(prompt).ids) == list(wanted)


@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_a_whole_conversation_is_that_of_the_template(prompt: str, checkpoint: Path) -> None:
    """Up to what some templates write after the end of the turn (a line break)."""
    chat = chat_of(checkpoint)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "I cannot."}]
    text = chat.tokenizer.apply_chat_template(turns, chat_template=chat.template, tokenize=False)
    found = chat.tokenizer.decode(list(chat.encode(prompt, "I cannot.").ids))
    assert found == text.rstrip("\n")


@settings(max_examples=60)
@given(prompt=st.text(max_size=60), response=st.none() | st.text(max_size=30))
def test_spans_tile_the_ids(prompt: str, response: str | None, chats: dict[str, Chat]) -> None:
    for chat in chats.values():
        tokens = chat.encode(prompt, response)
        names = SPANS if response is not None else SPANS[:-1]
        assert tuple(tokens.spans) == names
        end = 0
        for span in tokens.spans.values():
            assert span.start == end
            end = span.stop
        assert end == len(tokens) == len(tokens.ids)


@pytest.fixture(scope="module")
def chats(checkpoint_of: Checkpoints) -> dict[str, Chat]:
    found = {family: chat_of(checkpoint_of(family)) for family in FAMILIES}
    found["prefixed"] = chat_of(checkpoint_of("qwen2"), response_prefix="I")
    return found


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_instruction_s_span_is_the_prompt(prompt: str, chats: dict[str, Chat]) -> None:
    for family, chat in chats.items():
        tokens = chat.encode(prompt)
        found = chat.tokenizer.decode(list(tokens.ids[tokens.spans["instruction"]]))
        # Without a border of its own in the template a token may straddle both.
        assert found.strip() == prompt or family in ("gpt2", "mistral")
        assert prompt.strip() in chat.tokenizer.decode(list(tokens.ids))
        whole = "".join(
            chat.tokenizer.decode(list(tokens.ids[tokens.spans[name]])) for name in tokens.spans
        )
        assert whole == chat.tokenizer.decode(list(tokens.ids))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_offsets_are_where_tokens_stand_in_the_prompt(prompt: str, chats: dict[str, Chat]) -> None:
    for chat in chats.values():
        tokens, offsets = chat.encode(prompt), chat.offsets(f"  {prompt}\n")
        assert len(offsets) == len(tokens)
        assert all(start <= stop for start, stop in offsets)
        assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)
        for i, (start, stop) in enumerate(offsets):
            said = chat.tokenizer.decode([tokens.ids[i]])
            if start >= 0 and stop <= len(prompt) and said.isascii():
                assert prompt[start:stop].strip() == said.strip()
        # Together they cover the prompt, and a token starts in it that its span has.
        covered = {c for start, stop in offsets for c in range(start, stop)}
        assert covered >= {c for c, letter in enumerate(prompt) if not letter.isspace()}
        span = tokens.spans["instruction"]
        assert all(0 <= start < len(prompt) for start, _ in offsets[span])


def test_space_around_the_prompt_is_nothing(chats: dict[str, Chat]) -> None:
    for chat in chats.values():
        assert chat.encode("  Why?\n").ids == chat.encode("Why?").ids


def test_a_response_ends_with_the_end_of_the_turn(chats: dict[str, Chat]) -> None:
    for family, chat in chats.items():
        tokens = chat.encode("Why?", "I cannot help.")
        response = tokens.ids[tokens.spans["response"]]
        (end,) = chat.end_of_turn
        assert response[-1] == end and end not in response[:-1]
        made = FAMILIES["qwen2" if family == "prefixed" else family]
        assert chat.tokenizer.convert_ids_to_tokens(end) in made.ends_turn
        assert chat.tokenizer.decode(list(response[:-1])).strip() == "I cannot help."
        prompt = chat.encode("Why?")
        assert tokens.ids[: len(prompt)] == prompt.ids


def test_a_response_of_ids_is_kept_as_it_is(chats: dict[str, Chat]) -> None:
    for chat in chats.values():
        tokens = chat.encode("Why?", [5, 9, 9])
        assert tokens.ids[tokens.spans["response"]] == (5, 9, 9)
        assert tokens.ids[:-3] == chat.encode("Why?").ids


def test_response_prefix_stands_before_the_answer(checkpoint_of: Checkpoints) -> None:
    for family in FAMILIES:
        folder = checkpoint_of(family)
        plain, chat = chat_of(folder), chat_of(folder, response_prefix="Sorry, but I")
        tokens = chat.encode("Why?")
        prefix = chat.tokenizer.decode(list(tokens.ids[tokens.spans["response_prefix"]]))
        assert prefix.endswith("Sorry, but I")
        text = plain.tokenizer.decode(list(plain.encode("Why?").ids))
        assert chat.tokenizer.decode(list(tokens.ids)) == text + "Sorry, but I"
        assert not range(*plain.encode("Why?").spans["response_prefix"].indices(99))
        assert chat.fingerprint != plain.fingerprint


@pytest.mark.parametrize("said", [" cannot help with that.", " can.\n\n1. Yes", ", 日本 …"])
def test_a_response_in_words_goes_on_where_the_prefix_ends(
    said: str, checkpoint_of: Checkpoints
) -> None:
    """Nothing stands between them that the template would write before a response."""
    for family in FAMILIES:
        folder = checkpoint_of(family)
        for prefix in ("Sorry, but I", "I"):
            chat = chat_of(folder, response_prefix=prefix)
            tokens, decode = chat.encode("Why?", said), chat.tokenizer.decode
            opening = decode(list(chat.encode("Why?").ids))
            assert opening.endswith(prefix)
            assert decode(list(tokens.ids)) == opening + said + decode(list(chat.end_of_turn))
            response = tokens.spans["response"]
            assert tokens.ids[: response.start] == chat.encode("Why?").ids
            assert tokens.ids[-len(chat.end_of_turn) :] == chat.end_of_turn


def test_padding_is_on_the_left_and_positions_start_at_each_row(chats: dict[str, Chat]) -> None:
    for chat in chats.values():
        rows = [chat.encode("Why?", "No."), chat.encode(PROMPTS[1]), chat.encode("a", "I cannot.")]
        batch = chat.pad(rows)
        assert batch.input_ids.shape[1] == max(map(len, rows))
        for i, row in enumerate(rows):
            real = batch.attention_mask[i].bool()
            assert tuple(batch.input_ids[i, real].tolist()) == row.ids
            assert real[-len(row) :].all() and real.sum() == len(row)
            assert batch.position_ids[i, real].tolist() == list(range(len(row)))
            response = row.ids[row.spans["response"]] if "response" in row.spans else ()
            assert tuple(batch.input_ids[i, batch.response_mask[i]].tolist()) == response
        assert (batch.position_ids >= 0).all()
        assert not (batch.response_mask & (batch.attention_mask == 0)).any()


@pytest.mark.parametrize("family", ["qwen2", "mistral", "llama", "gpt2"])
def test_a_system_message_is_the_template_s(family: str, checkpoint_of: Checkpoints) -> None:
    chat = chat_of(checkpoint_of(family), system="Be brief.")
    tokens = chat.encode("Why?")
    system = chat.tokenizer.decode(list(tokens.ids[tokens.spans["system"]]))
    assert "Be brief." in system and "Why?" not in system


def test_a_template_without_system_messages_says_so(checkpoint_of: Checkpoints) -> None:
    with pytest.raises(ModelError, match="System role not supported; check --system"):
        chat_of(checkpoint_of("gemma2"), system="Be brief.")


def test_without_a_template_the_fallback_is_stated(checkpoint_of: Checkpoints) -> None:
    tokenizer = tokenizer_of(checkpoint_of("gpt2"))
    with pytest.warns(UserWarning, match="no chat template.*--chat-template FILE"):
        chat = Chat(tokenizer)
    assert chat.is_fallback and chat.template == PLAIN_TEMPLATE
    assert tokenizer.decode(list(chat.encode("Why?").ids)) == "User: Why?\n\nAssistant:"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        given_one = Chat(tokenizer, template=CHAT_ML)
        assert not given_one.is_fallback
        assert not Chat(tokenizer_of(checkpoint_of("qwen2"))).is_fallback
    assert "<|im_start|>user\nWhy?" in tokenizer.decode(list(given_one.encode("Why?").ids))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_the_fallback_begins_as_the_tokenizer_begins_a_text(
    family: str, checkpoint_of: Checkpoints
) -> None:
    """Models that were trained with BOS before every text read it here too."""
    tokenizer = tokenizer_of(checkpoint_of(family))
    tokenizer.chat_template = None
    with pytest.warns(UserWarning, match="no chat template"):
        row = Chat(tokenizer).encode("Why?")
    wanted = tokenizer("User: Why?\n\nAssistant:")["input_ids"]
    assert list(row.ids) == wanted and wanted[0] == tokenizer.bos_token_id


def test_template_arguments_reach_the_template(checkpoint_of: Checkpoints) -> None:
    template = "{{ date_string }}|{{ messages[0]['content'] }}|"
    chat = chat_of(
        checkpoint_of("llama"), template=template, template_arguments={"date_string": "1 May"}
    )
    assert chat.tokenizer.decode(list(chat.encode("Why?").ids)) == "1 May|Why?|"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('never') }}", "refused the conversation: never"),
        ("{% for %}", "refused the conversation"),
        ("hello", "changes the user's message"),
        ("{{ messages[0]['content'] | upper }}", "changes the user's message"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(
    template: str, message: str, checkpoint_of: Checkpoints
) -> None:
    with pytest.raises(ModelError, match=message):
        chat_of(checkpoint_of("qwen2"), template=template)


def test_an_empty_system_message_is_refused(checkpoint_of: Callable[[str], Path]) -> None:
    """The template's own would stand in its place."""
    with pytest.raises(InputError, match="the system message is empty"):
        chat_of(checkpoint_of("qwen2"), system=" ")


def test_slow_tokenizers_are_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow is a slow tokenizer"):
        Chat(Slow())


def test_batches_go_to_the_wanted_device(chats: dict[str, Chat]) -> None:
    batch = chats["qwen2"].pad([chats["qwen2"].encode("Why?")], torch.device("meta"))
    assert batch.input_ids.device.type == batch.response_mask.device.type == "meta"


def test_what_was_encoded_before_changes_nothing(
    chats: dict[str, Chat], checkpoint_of: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.model.chat.MOST_ENCODED", 3)
    asked = [(f" {prompt}", said) for prompt in PROMPTS for said in (None, "I cannot.", (5, 7))]
    chat = chats["qwen2"]
    for closed in (True, False, True):
        for prompt, said in [*asked, *reversed(asked)]:
            fresh = chat_of(checkpoint_of("qwen2"))
            assert chat.encode(prompt, said, closed=closed) == fresh.encode(
                prompt, said, closed=closed
            )
