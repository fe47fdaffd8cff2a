"""Chat templates in the shapes that models are published with, and tokenizers of four kinds.

The tokenizers are learned on ``corpus.txt`` on the spot: byte-level BPE; BPE and a unigram model
with SentencePiece's space before the first word; word pieces.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tests.checkpoints import CHAT_ML, CORPUS, HEADERS, INSTRUCTION_BRACKETS, TURNS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LLAMA_2 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' + '\n' }}{% endif %}"
    "{% endfor %}"
)
HARMONY = (
    "{{ '<|start|>system<|message|>You are a model.<|end|>' }}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] + '<|return|>' }}"
    "{% else %}{{ '<|start|>' + message['role'] + '<|message|>' + message['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
# The generation prompt opens a thought that a finished turn does not have (DeepSeek R1).
OPENS_THOUGHT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|user|>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + message['content'].split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
# A finished turn has an empty thought (Qwen3 with thinking).
EMPTY_THOUGHT = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% set parts = message['content'].split('</think>') %}"
    "{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% if parts | length > 1 %}{{ parts[0].split('<think>')[-1].strip('\n') }}{% endif %}"
    "{{ '\n</think>\n\n' + parts[-1].lstrip('\n') + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
DROPS_SYSTEM = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SHOWS_TWICE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}"
    "{{ '<|user|>' + message['content'] + '\nAgain: ' + message['content'] + '<|assistant|>' }}"
    "{% endif %}{% endfor %}"
)
# No special token stands between template and prompt, so that tokens merge across the border.
PLAIN_TEXT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'Question (' + message['content'] + ')\nAnswer:' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
SHAPES = {
    "chat_ml": CHAT_ML,
    "llama_2": LLAMA_2,
    "zephyr": ZEPHYR,
    "llama_3": HEADERS,
    "gemma": TURNS,
    "mistral": INSTRUCTION_BRACKETS,
    "harmony": HARMONY,
    "empty_thought": EMPTY_THOUGHT,
    "plain_text": PLAIN_TEXT,
    "drops_system": DROPS_SYSTEM,
    "shows_twice": SHOWS_TWICE,
}
KINDS = ("byte_bpe", "sentencepiece_bpe", "unigram", "word_piece")
SPECIAL = (
    "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>", "<|im_start|>", "<|im_end|>", "<|start|>",
    "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<start_of_turn>", "<end_of_turn>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[THINK]", "[/THINK]",
)  # fmt: skip


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of one of ``KINDS``, without a template."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    settings = {"vocab_size": 600, "show_progress": False, "special_tokens": list(SPECIAL)}
    text = CORPUS.read_text(encoding="utf-8").splitlines()[:400]
    spaces = pre_tokenizers.Metaspace(prepend_scheme="first")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    if kind == "byte_bpe":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **settings)
    elif kind == "sentencepiece_bpe":
        core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        core.pre_tokenizer, core.decoder = spaces, decoders.Metaspace(prepend_scheme="first")
        settings["special_tokens"] = [*SPECIAL, *bytes_]
        trainer = trainers.BpeTrainer(**settings)
    elif kind == "unigram":
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer, core.decoder = spaces, decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.UnigramTrainer(
            unk_token="<unk>", initial_alphabet=["\n", "\t"], **settings
        )
    else:
        core = Tokenizer(models.WordPiece(unk_token="<unk>"))
        core.pre_tokenizer, core.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**settings)
    core.train_from_iterator(text, trainer)
    if kind == "sentencepiece_bpe":
        # As converted Llama tokenizers have it: the space before the text is part of normalising.
        core.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        core.pre_tokenizer = None
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=[one for one in SPECIAL if one not in ("<s>", "</s>", "<unk>")],
        clean_up_tokenization_spaces=False,
    )
