"""The model and the rows that the training step is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from interp.model import Chat, LanguageModel, Tokens
from tests.checkpoints import build_tokenizer
from unlearning.training import Example, Mixture, TrainingSettings, prepare_in_place


@dataclass(frozen=True)
class Workload:
    """A Qwen2 with tied embeddings and random weights, and random rows without padding.

    The defaults are the benchmark's: 50,222,592 parameters, of which 16,384,000 are the embedding
    and head; 8 forget and 8 retain rows of 128 tokens, of which the last 32 are the response.
    With ``source``, the folder of a model of any other shape, its weights replace the random ones.
    """

    vocabulary: int = 32_000
    d_model: int = 512
    d_mlp: int = 1408
    layers: int = 12
    heads: int = 8
    key_value_heads: int = 2
    rows: int = 8
    tokens: int = 128
    response: int = 32
    rank: int = 16
    source: str = ""

    def settings(self, trained: str, steps: int) -> TrainingSettings:
        """The engine's settings: NPO and retain cross-entropy, LoRA or all weights."""
        return TrainingSettings(
            objective="npo",
            retain_objective="cross_entropy",
            trained={"lora": "lora", "full": "all"}[trained],
            lora_rank=self.rank,
            lora_alpha=self.rank,
            learning_rate=1e-5,
            batch_size=self.rows,
            separate_backward=True,
            max_steps=steps,
        )

    def model(self) -> LanguageModel:
        """The same weights at every call."""
        if self.source:
            return LanguageModel.load(self.source, dtype=torch.float32)
        config = Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.d_model,
            intermediate_size=self.d_mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            tie_word_embeddings=True,
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # Only pads, and here there is nothing to pad: its vocabulary need not be the model's.
        tokenizer = build_tokenizer("qwen2")
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # known to the smallest model
        return LanguageModel(model, tokenizer, Chat(tokenizer))

    def prepared(self, trained: str) -> LanguageModel:
        """The model with its trainable parameters chosen, in train mode."""
        lm = prepare_in_place(self.model(), self.settings(trained, steps=1))
        lm.model.train()
        return lm

    def ids(self, group: str) -> Tensor:
        """Token ids of the group's rows: "forget" or "retain"."""
        rng = np.random.default_rng(["forget", "retain"].index(group))
        return torch.from_numpy(rng.integers(0, self.vocabulary, (self.rows, self.tokens)))

    def mixture(self) -> Mixture:
        """The same rows for the engine."""
        spans = {"response": slice(self.tokens - self.response, self.tokens)}

        def examples(group: str) -> list[Example]:
            rows = self.ids(group).tolist()
            return [
                Example(f"{group} {i}", Tokens(tuple(row), spans)) for i, row in enumerate(rows)
            ]

        return Mixture(examples("forget"), {"retain": examples("retain")})
