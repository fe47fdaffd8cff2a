"""Small random checkpoints of real architectures, for tests that need what real models do.

Each has the structure of its family's published configuration (grouped-query attention, sliding
window, soft caps, tied embeddings, rotary base and so on) at reduced width, depth and vocabulary; a
byte-level BPE tokenizer trained on the spot on ``corpus.txt``, with the family's special tokens
where the family has them; and a chat template written here in the family's published shape.
Saved as ordinary folders, they load through ``AutoModelForCausalLM`` and ``AutoTokenizer``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from interp.model import LanguageModel

CORPUS = Path(__file__).with_name("corpus.txt")
VOCABULARY = 2000
LAYERS = 4

# Qwen2: ChatML, with a system turn even where none is asked for.
CHAT_ML = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Mistral: the system message goes into the user's turn, roles must alternate, BOS is written out.
INSTRUCTION_BRACKETS = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
# Llama 3: a header for every turn, BOS before the first one.
HEADERS = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Gemma 2: the assistant is called model, and a system message is refused.
TURNS = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# Qwen2 keeps every digit a token of its own; its tokenizer class brings this back on loading.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """What makes a family's checkpoints what they are.

    Attributes:
        config: (config class name, structural settings).
        first, last: special tokens before and after the learned vocabulary, in id order.
        named: the tokenizer's named special tokens (``eos_token`` and so on).
        ends_turn: tokens that end a generated answer.
        template: the chat template; ``None`` for a base model.
        words: pattern that cuts text into words before BPE; ``None`` for GPT-2's own.
        prepends_bos: the tokenizer puts BOS before any text, rendered templates included.
    """

    config: tuple[str, dict[str, Any]]
    named: dict[str, str]
    ends_turn: Sequence[str]
    first: Sequence[str] = ()
    last: Sequence[str] = ()
    template: str | None = None
    words: str | None = None
    prepends_bos: bool = False


WIDTH = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": LAYERS}

FAMILIES = {
    "qwen2": Family(
        config=(
            "Qwen2Config",
            {
                **WIDTH,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 2048,
                "max_window_layers": LAYERS - 1,
                "use_sliding_window": False,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
                "tie_word_embeddings": True,
            },
        ),
        last=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        named={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ends_turn=("<|im_end|>", "<|endoftext|>"),
        template=CHAT_ML,
        words=QWEN2_WORDS,
    ),
    "mistral": Family(
        config=(
            "MistralConfig",
            {
                **WIDTH,
                "num_attention_heads": 8,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-5,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
                "sliding_window": 64,
            },
        ),
        first=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        named={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        ends_turn=("</s>",),
        template=INSTRUCTION_BRACKETS,
        prepends_bos=True,
    ),
    "llama": Family(
        config=(
            "LlamaConfig",
            {
                **WIDTH,
                "num_attention_heads": 8,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-5,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500_000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 256,
                },
            },
        ),
        last=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ),
        named={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ends_turn=("<|end_of_text|>", "<|eot_id|>"),
        template=HEADERS,
        prepends_bos=True,
    ),
    "gemma2": Family(
        config=(
            "Gemma2Config",
            {
                **WIDTH,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                # Wider than hidden_size / heads, as in the 2B and 9B models.
                "head_dim": 24,
                "query_pre_attn_scalar": 24,
                "max_position_embeddings": 2048,
                "sliding_window": 64,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
            },
        ),
        first=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        named={
            "pad_token": "<pad>",
            "eos_token": "<eos>",
            "bos_token": "<bos>",
            "unk_token": "<unk>",
        },
        ends_turn=("<eos>", "<end_of_turn>"),
        template=TURNS,
        prepends_bos=True,
    ),
    "gpt2": Family(
        config=("GPT2Config", {"n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 512}),
        last=("<|endoftext|>",),
        named={
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        },
        ends_turn=("<|endoftext|>",),
    ),
}


def save_checkpoint(
    family: str, folder: str | Path, *, seed: int = 0, dtype: torch.dtype | None = None
) -> Path:
    """Write a random checkpoint of ``family`` with tokenizer and generation config to ``folder``.

    Args:
        family: a key of ``FAMILIES``.
        folder: made if absent.
        seed: of the weights.
        dtype: of the weights on disk; float32 if ``None``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer(family)
    config = build_config(family, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype or torch.float32)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def load_checkpoint(folder: Path, dtype: torch.dtype | str = "auto") -> LanguageModel:
    """A model of one's own, for tests that change it: the folder is read once a process."""
    lm = _read_once(folder, dtype)
    return lm.with_model(copy.deepcopy(lm.model))


@cache
def _read_once(folder: Path, dtype: torch.dtype | str) -> LanguageModel:
    from interp.model import LanguageModel

    return LanguageModel.load(folder, dtype=dtype)


def build_config(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The family's configuration, made to fit ``tokenizer``."""
    import transformers

    name, settings = FAMILIES[family].config
    make: Callable[..., PreTrainedConfig] = getattr(transformers, name)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in FAMILIES[family].ends_turn]
    return make(
        **settings,
        # More rows than tokens, as in the published checkpoints, whose tables are padded.
        vocab_size=-(-len(tokenizer) // 64) * 64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )


def build_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most ``VOCABULARY`` tokens in the family's manner."""
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    made = FAMILIES[family]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if made.words:
        core.normalizer = normalizers.NFC()
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(made.words), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        CORPUS.read_text(encoding="utf-8").splitlines(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=1,
            special_tokens=list(made.first),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    core.add_special_tokens(list(made.last))
    if made.prepends_bos:
        bos = made.named["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        extra_special_tokens=[
            token for token in (*made.first, *made.last) if token not in made.named.values()
        ],
        clean_up_tokenization_spaces=False,
        **made.named,
    )
    tokenizer.chat_template = made.template
    return tokenizer
