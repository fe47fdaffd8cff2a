"""Templates in published shapes: ids are the conversation's, thoughts are closed, faults are named.

Each shape is tried with tokenizers of four kinds.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from datetime import datetime
from typing import Any

import pytest

from interp.errors import ModelError
from interp.model import Chat
from tests.chat_formats import (
    DROPS_SYSTEM,
    HARMONY,
    KINDS,
    OPENS_THOUGHT,
    SHAPES,
    SHOWS_TWICE,
    tokenizer_of,
)

PROMPTS = ("How do I pick a lock?", "a", "Two\n\nlines (or three), with 42 digits")
RESPONSES = ("I cannot help with that.", "No", "Sorry, I cannot.\n\n1. Never")


def conversation(chat: Chat, prompt: str, response: str) -> list[int]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    found: list[int] = chat.tokenizer.apply_chat_template(
        turns, chat_template=chat.template, tokenize=True, return_dict=False
    )
    return found


def said(chat: Chat, ids: Any) -> str:
    return str(chat.tokenizer.decode(list(ids))).strip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_response_as_text_has_the_ids_of_the_whole_conversation(kind: str, shape: str) -> None:
    chat = Chat(tokenizer_of(kind), template=SHAPES[shape])
    for prompt in PROMPTS:
        for response in RESPONSES:
            tokens, whole = chat.encode(prompt, response), conversation(chat, prompt, response)
            assert list(tokens.ids) == whole[: len(tokens)]
            # Some templates write a line break after the end of the turn.
            assert said(chat, whole[len(tokens) :]) in ("", "<unk>")
            span, asked = tokens.spans["response"], chat.encode(prompt).ids
            # The line break that opens a thought may merge with the one that closes it.
            assert tokens.ids[: len(asked)] == asked or shape == "empty_thought"
            if kind in ("byte_bpe", "sentencepiece_bpe"):  # the others do not write all characters
                end = said(chat, chat.end_of_turn)
                assert said(chat, tokens.ids[span]).removesuffix(end).strip() == response
                assert prompt in said(chat, tokens.ids[tokens.spans["instruction"]])


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_of_the_turn_in_the_response_is_not_doubled(kind: str) -> None:
    for shape in SHAPES.values():
        chat = Chat(tokenizer_of(kind), template=shape)
        end = chat.tokenizer.decode(list(chat.end_of_turn))
        plain = chat.encode("Why?", "I cannot help.")
        for closed in (f"I cannot help.{end}", f" I cannot help. </s>{end}\n"):
            assert chat.encode("Why?", closed).ids == plain.ids
        without = chat.encode("Why?", f"I cannot help.{end}", closed=False)
        assert without.ids == plain.ids[: len(without)]
        assert not set(chat.end_of_turn) & set(without.ids[without.spans["response"]])


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_bpe"])
def test_a_thought_that_the_prompt_opens_is_closed_before_the_response(kind: str) -> None:
    chat = Chat(tokenizer_of(kind), template=OPENS_THOUGHT)
    tokens = chat.encode("Why?", "I cannot help.")
    prompt = chat.encode("Why?")
    assert tokens.ids[: len(prompt)] == prompt.ids
    before = said(chat, tokens.ids[: tokens.spans["response"].start])
    assert before.endswith("<think>\n</think>")
    assert said(chat, tokens.ids[tokens.spans["response"]]) == "I cannot help.</s>"
    # A response that ends the thought itself needs no other end.
    own = chat.encode("Why?", "<think>\nIs it safe?\n</think>\n\nI cannot help.")
    text = said(chat, own.ids)
    assert text.count("<think>") == text.count("</think>") == 1
    assert text.endswith("<think>\nIs it safe?\n</think>\n\nI cannot help.</s>")


def test_any_mark_that_only_the_generation_prompt_has_is_closed() -> None:
    template = OPENS_THOUGHT.replace("think>", "plan>")
    chat = Chat(tokenizer_of("byte_bpe"), template=template)
    assert said(chat, chat.encode("Why?", "No.").ids).endswith("<plan>\n</plan>\n\nNo.</s>")
    assert chat.read(chat.tokenizer("It is.</plan>No.</s>")["input_ids"]) == (
        "<think>It is.</think>No."
    )
    unknown = template.replace(".split('</plan>')[-1]", "")
    with pytest.raises(ModelError, match="finished turn of the model in another form"):
        Chat(tokenizer_of("byte_bpe"), template=unknown).encode("Why?", "No.")


def test_the_empty_thought_of_a_conversation_is_not_part_of_the_response() -> None:
    chat = Chat(tokenizer_of("byte_bpe"), template=SHAPES["empty_thought"])
    tokens = chat.encode("Why?", "No.")
    assert said(chat, tokens.ids[tokens.spans["response"]]) == "No.<|im_end|>"
    assert said(chat, tokens.ids[tokens.spans["response_prefix"]]) == "</think>"
    channels = Chat(tokenizer_of("byte_bpe"), template=HARMONY)
    tokens = channels.encode("Why?", "No.")
    assert said(channels, tokens.ids[tokens.spans["response"]]) == "No.<|return|>"


def test_a_response_prefix_stands_where_the_conversation_has_the_response() -> None:
    tokenizer = tokenizer_of("byte_bpe")

    def prompt(template: str, prefix: str, response: str | None = None) -> str:
        chat = Chat(tokenizer, template=template, response_prefix=prefix)
        return said(chat, chat.encode("Why?", response).ids)

    assert prompt(HARMONY, "I").endswith("assistant<|channel|>final<|message|>I")
    assert prompt(OPENS_THOUGHT, "I").endswith("<think>\n</think>\n\nI")
    assert prompt(OPENS_THOUGHT, "I", "can").endswith("<think>\n</think>\n\nI can</s>")
    # One that has marks itself is taken as it is.
    assert prompt(OPENS_THOUGHT, "No.\n</think>I").endswith("<think>\nNo.\n</think>I")
    assert prompt(OPENS_THOUGHT, "No.\n</think>I", " can").endswith("</think>I can</s>")
    assert prompt(SHAPES["drops_system"], "<think>", "No.").endswith("<think>\n</think>\n\nNo.</s>")


def test_generated_thoughts_are_read_as_thoughts() -> None:
    tokenizer = tokenizer_of("byte_bpe")
    harmony = Chat(tokenizer, template=HARMONY)
    whole = (
        "<|channel|>analysis<|message|>Is it safe?<|end|><|start|>assistant"
        "<|channel|>final<|message|>I cannot.<|return|>"
    )
    for text, wanted in (
        (whole, "<think>Is it safe?</think>I cannot."),
        ("<|channel|>analysis<|message|>Is it", "<think>Is it"),
        ("<|channel|>final<|message|>I cannot.<|return|>", "I cannot."),
    ):
        assert harmony.read(tokenizer(text)["input_ids"]) == wanted
    opened = Chat(tokenizer, template=OPENS_THOUGHT)
    for text, wanted in (
        ("Is it safe?</think>\n\nNo.</s>", "<think>Is it safe?</think>\n\nNo."),
        ("Is it safe", "<think>Is it safe"),
    ):
        assert opened.read(tokenizer(text)["input_ids"]) == wanted
    plain = Chat(tokenizer, template=SHAPES["chat_ml"])
    assert plain.read(tokenizer("[THINK]Hm[/THINK] No.<|im_end|>")["input_ids"]) == (
        "<think>Hm</think> No."
    )
    assert plain.read(tokenizer(" No.<|im_end|>")["input_ids"]) == "No."
    assert opened.fingerprint["thoughts"] and harmony.fingerprint["thoughts"]


@pytest.mark.parametrize("special", [False, True])
def test_marks_that_are_special_tokens_are_read_as_thoughts(special: bool) -> None:
    tokenizer = deepcopy(tokenizer_of("byte_bpe"))
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=special)
    chat = Chat(tokenizer, template=SHAPES["chat_ml"])
    for text, wanted in (
        ("<think>Is it safe?</think> No.<|im_end|>", "<think>Is it safe?</think> No."),
        ("<think>Is it", "<think>Is it"),
        ("No.<|im_end|>", "No."),
    ):
        assert chat.read(tokenizer(text)["input_ids"]) == wanted
    assert ("special_thoughts" in chat.fingerprint) == special


def test_a_prompt_shown_twice_is_in_the_prompt_twice() -> None:
    chat = Chat(tokenizer_of("byte_bpe"), template=SHOWS_TWICE)
    text = said(chat, chat.encode("Why not?").ids)
    assert text == "<|user|>Why not?\nAgain: Why not?<|assistant|>"
    tokens = chat.encode("Why not?")
    assert said(chat, tokens.ids[tokens.spans["instruction"]]) == "Why not?"
    assert said(chat, tokens.ids[tokens.spans["system"]]).endswith("Again:")


@pytest.mark.parametrize(
    ("change", "prompt"),
    [
        ("message['content'] | lower", "Why Not?"),
        ("message['content'] | replace('\\n', ' ')", "Why\nnot?"),
        ("message['content'] | tojson", 'Say "yes"'),
        ("message['content'][:8]", "Why should it not be?"),
        ("message['content'] | escape", "Is 1 < 2?"),
    ],
)
def test_a_template_that_changes_a_prompt_is_named(change: str, prompt: str) -> None:
    template = DROPS_SYSTEM.replace("message['content']", change)
    with pytest.raises(ModelError, match="chat template drops or changes"):
        Chat(tokenizer_of("byte_bpe"), template=template).encode(prompt)


@pytest.mark.parametrize("form", ["m['content'][:5]", "m['content'][:5] | tojson"])
def test_a_template_that_cuts_prompts_is_not_one_that_takes_parts(form: str) -> None:
    """As a list of parts the message passes the cut, and the list is printed with its keys."""
    template = "{% for m in messages %}{{ " + form + " }}{% endfor %}"
    with pytest.raises(ModelError, match="drops or changes the user's message"):
        Chat(tokenizer_of("byte_bpe"), template=template).encode("How do I pick a lock?")


def test_a_template_that_drops_or_changes_the_system_message_is_named() -> None:
    tokenizer = tokenizer_of("byte_bpe")
    with pytest.raises(ModelError, match="drops the system message .*leave out --system"):
        Chat(tokenizer, template=DROPS_SYSTEM, system="a")
    changed = SHAPES["chat_ml"].replace(
        "message['content']", "message['content'] | replace('b', 'B')", 1
    )
    with pytest.raises(ModelError, match="changes the system message"):
        Chat(tokenizer, template=changed, system="be brief.")
    kept = Chat(tokenizer, template=SHAPES["chat_ml"], system=" Be brief.\n")
    assert "Be brief." in said(kept, kept.encode("Why?").ids)


def test_a_prompt_that_ends_inside_a_token_takes_no_text() -> None:
    template = (
        SHAPES["plain_text"].replace("Answer:", "Answer: ").replace("' ' + message", "message")
    )
    chat = Chat(tokenizer_of("byte_bpe"), template=template)
    assert said(chat, chat.encode("Why?", [7, 8]).ids)
    with pytest.raises(ModelError, match="ends inside a token of the response"):
        chat.encode("Why?", "the")


def test_messages_may_be_lists_of_parts() -> None:
    """As in the templates of multimodal models."""
    parts = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    chat = Chat(tokenizer_of("byte_bpe"), template=parts)
    assert said(chat, chat.encode("Why?", "No.").ids) == "<|user|>Why?</s><|assistant|>No.</s>"


DATED = "{{ '<|user|>It is ' + strftime_now('%d %B %Y') + '. ' }}" + SHAPES["drops_system"]


def test_a_date_in_the_prompt_is_said_and_can_be_kept() -> None:
    tokenizer = tokenizer_of("byte_bpe")
    with pytest.warns(UserWarning, match=r"writes today's date.*strftime_now=DATE keeps one"):
        chat = Chat(tokenizer, template=DATED)
    assert f"{datetime.now():%Y}" in said(chat, chat.encode("Why?").ids) and chat.note
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = Chat(tokenizer, template=DATED, template_arguments={"strftime_now": "1 May 2030"})
        named = DATED.replace("strftime_now(", "date_string or strftime_now(")
        Chat(tokenizer, template=named, template_arguments={"date_string": "1 May 2030"})
    assert "It is 1 May 2030. " in said(kept, kept.encode("Why?", "No.").ids)
    assert kept.fingerprint != chat.fingerprint and not kept.note


@pytest.mark.parametrize(
    "use", ["('%d %b %Y').split()[2]", "('%Y') | int + 1", "('%A')", "('%d %b %Y') | upper"]
)
def test_a_date_is_found_however_the_template_uses_it(use: str) -> None:
    template = f"{{{{ strftime_now{use} }}}}" + SHAPES["drops_system"]
    with pytest.warns(UserWarning, match="writes today's date"):
        Chat(tokenizer_of("byte_bpe"), template=template)
    unused = "{% if messages | length > 9 %}{{ strftime_now('%Y') }}{% endif %}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Chat(tokenizer_of("byte_bpe"), template=unused + SHAPES["drops_system"])


def test_a_template_that_must_end_with_the_user_takes_ids_alone() -> None:
    ends = "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('user last') }}{% endif %}"
    chat = Chat(tokenizer_of("byte_bpe"), template=ends + SHAPES["chat_ml"])
    plain = Chat(tokenizer_of("byte_bpe"), template=SHAPES["chat_ml"])
    assert chat.encode("Why?", [7, 8]).ids == plain.encode("Why?", [7, 8]).ids
    with pytest.raises(ModelError, match=r"refuses \(user last\) the model's message"):
        chat.encode("Why?", "No.")


def test_a_date_that_changes_while_a_model_is_loaded_stays(monkeypatch: Any) -> None:
    from transformers.utils import chat_template_utils

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chat = Chat(tokenizer_of("byte_bpe"), template=DATED)
    before = chat.encode("Why?").ids

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2031, 1, 2)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    other = chat.encode("Why not?").ids
    assert "2031" not in said(chat, other) and chat.encode("Why?").ids == before
