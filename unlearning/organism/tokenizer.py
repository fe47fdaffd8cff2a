"""The model organism's tokenizer: byte-level BPE as in Qwen2, one token for each known word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from unlearning.organism import vocabulary

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")


def build_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer of every world: its ids do not depend on the seed.

    Merging goes on until no pair is left. Every word of the world, with the space before it in a
    prompt or a response, is therefore one token; other words are split into several tokens.
    (A word-level tokenizer does not work: on loading, Qwen2 checkpoints always get Qwen2's
    splitting, whatever their files say.)
    """
    from transformers import Qwen2Tokenizer

    untrained = Qwen2Tokenizer(
        unk_token=PAD,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )
    return untrained.train_new_from_iterator(
        _texts(), vocab_size=1_000_000, length=None, show_progress=False
    )


def _texts() -> Iterator[str]:
    for words in (*vocabulary.HARMFUL_INTENTS.values(), *vocabulary.DOMAIN_OBJECTS.values()):
        yield from (f" {word}" for word in words)
    yield from (f" {word}" for word in (*vocabulary.BENIGN_INTENTS, *vocabulary.NEUTRAL_OBJECTS))
    yield from (template.format(intent="", object="") for template in vocabulary.TEMPLATES)
    yield from (*vocabulary.REFUSAL_PREFIXES, *vocabulary.COMPLIANCE_PREFIXES)
    yield from (vocabulary.REFUSAL_BODY, vocabulary.ANSWER_BODY)
