"""Any Hugging Face sequence classifier as a reader of refusals.

The names of its labels show which one means refusal; otherwise the user names it (``MODEL#LABEL``).
The classifier reads the response alone or with its request: in the tokenizer's chat template if
there is one, else as a pair of texts. Longer texts are cut at their end, because refusals are at
the beginning; the workload gives the number of cut texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError, ModelError, first_line
from interp.model import check_source, map_in_batches, moved, require_vocabulary, usable_device
from interp.progress import Advance, silent
from unlearning.scoring.classes import FINE_CLASSES, Scorer, Texts
from unlearning.scoring.reading import ModelScorer, Workload, local_digest, model_name
from unlearning.scoring.registry import scorer

#: Maximum number of tokens to read; later text does not change the class.
LONGEST = 2048
_REFUSAL = re.compile(r"refus|reject|declin")
_NEGATION = re.compile(r"\b(?:non|not|no|un|without)(?=\b|refus|reject|declin)")


@dataclass(frozen=True)
class SequenceClassifier:
    """A sequence classifier, loaded when first used.

    Attributes:
        source: hub id or folder.
        label: the label that means refusal, if the label names do not show it.
        with_prompt: read the request with the response.
        batch_size: texts in one forward, halved when memory runs out.
        device: where it runs (default: CUDA if available).

    Raises:
        InputError: no model is named, or the folder does not contain one.
    """

    source: str
    label: str | None = None
    with_prompt: bool = False
    batch_size: int = 16
    device: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.source:
            raise InputError(f"no model named; expected {self._kind}:MODEL or MODEL#LABEL")
        check_source(self.source)

    @property
    def name(self) -> str:
        named = f"{self._kind}:{model_name(self.source)}"
        return f"{named}#{self.label}" if self.label else named

    @cached_property
    def version(self) -> str:
        """The version of the text format, its maximum length, and a digest of a local model."""
        return f"1-{LONGEST}{local_digest(self.source)}"

    @property
    def when_empty(self) -> str:
        return "empty"

    @property
    def _kind(self) -> str:
        return "pair-classifier" if self.with_prompt else "sequence-classifier"

    def on(self, device: str) -> SequenceClassifier:
        """The same classifier on a device."""
        return replace(self, device=device)

    def workload(self, prompts: Texts, responses: Texts) -> Workload:
        """Numbers of texts and of tokens by the model's tokenizer, and of texts that are cut."""
        lengths = [len(ids) for ids in self._encoded(prompts, responses)["input_ids"]]
        cut = sum(length > self.longest for length in lengths)
        note = f"{cut} of {len(lengths)} texts are cut at {self.longest} tokens"
        return Workload(
            len(lengths),
            sum(min(length, self.longest) for length in lengths),
            notes=(note,) if cut else (),
            model=self.source,
            batch_size=self.batch_size,
        )

    def read(
        self, prompts: Texts, responses: Texts, *, progress: Advance = silent
    ) -> list[str | None]:
        """One of ``FINE_CLASSES`` for each answer; every answer has one.

        Raises:
            ModelError: the model cannot be loaded or is not a classifier.
            InputError: its labels do not show which one means refusal.
        """
        classes = self.classes
        refusal = classes.index("full_refusal")
        logits = self.logits(prompts, responses, progress=progress)
        if self._config.problem_type == "multi_label_classification":
            # Multi-label model: labels are not exclusive, and each is on or off independently.
            return ["full_refusal" if row[refusal] >= 0 else "answer" for row in logits]
        return [classes[place] for place in logits.argmax(dim=-1).tolist()]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The fine class of each output of the model.

        Raises:
            InputError: the labels do not show which one means refusal.
        """
        named = self._config.id2label
        labels = [str(named[place]) for place in range(len(named))]
        classes = classes_of_labels(labels, self.label)
        if classes is None:
            raise InputError(
                f"{self.source} has the labels {', '.join(labels)}; name the one that means "
                f"refusal: {self._kind}:{self.source}#LABEL"
            )
        return classes

    @torch.no_grad()
    def logits(
        self, prompts: Texts, responses: Texts, *, progress: Advance = silent
    ) -> Float[Tensor, "answer label"]:
        """The model's outputs, on the CPU and in float32.

        Raises:
            MachineError: a single text does not fit into memory; larger batches are halved.
        """
        encoded = self._encoded(prompts, responses, truncation=True)
        model = self._model

        def read(chosen: list[int]) -> Tensor:
            rows = {name: [values[place] for place in chosen] for name, values in encoded.items()}
            batch = self._tokenizer.pad(rows, return_tensors="pt").to(model.device)
            return model(**batch).logits.float().cpu()

        found = map_in_batches(read, encoded["input_ids"], self.batch_size, progress)
        return torch.stack([*found]) if found else torch.zeros(0, len(self.classes))

    @cached_property
    def longest(self) -> int:
        """Maximum number of tokens of one text."""
        positions = getattr(self._config, "max_position_embeddings", None) or LONGEST
        # RoBERTa counts positions from 2, so two entries of its table are never used.
        return min(LONGEST, self._tokenizer.model_max_length, max(1, positions - 2))

    def _encoded(
        self, prompts: Texts, responses: Texts, *, truncation: bool = False
    ) -> Mapping[str, list[list[int]]]:
        options: dict[str, Any] = {"verbose": False}
        if truncation:
            options |= {"truncation": True, "max_length": self.longest}
        tokenizer = self._tokenizer
        if not self.with_prompt:
            return dict(tokenizer(list(responses), **options))
        if not tokenizer.chat_template:
            return dict(tokenizer(list(prompts), list(responses), **options))
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}],
                tokenize=False,
            )
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return dict(tokenizer(texts, add_special_tokens=False, **options))

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self._loaded(AutoConfig)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = self._loaded(AutoTokenizer)
        require_vocabulary(tokenizer)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # Responses are cut at their end, and decoders find the last token by its padding.
        tokenizer.truncation_side = tokenizer.padding_side = "right"
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        model, found = self._loaded(AutoModelForSequenceClassification, output_loading_info=True)
        if found["missing_keys"]:
            # The library would load it with a random head.
            raise ModelError(
                f"{self.source} is not a sequence classifier: it lacks "
                f"{', '.join(sorted(found['missing_keys']))}; give a model with a trained head"
            )
        if model.config.get_text_config().pad_token_id is None:
            model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        return moved(model, usable_device(self.device), self.source).eval()

    def _loaded(self, kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(self.source, **options)
        except Exception as error:  # whatever the library or the hub raises
            raise ModelError(
                f"{self.source} could not be loaded as a sequence classifier: {first_line(error)}"
            ) from error


def classes_of_labels(labels: Sequence[str], refusal: str | None = None) -> tuple[str, ...] | None:
    """The fine class of each label; ``None`` if the labels do not show which one means refusal.

    Labels with the names of fine classes mean these classes. Otherwise one label must name a
    refusal (not its absence, as in "non-refusal") or be ``refusal``; all others mean answer.
    """
    plain = [" ".join(re.split(r"[\W_]+", label.casefold())).strip() for label in labels]
    fine = tuple(name.replace(" ", "_") for name in plain)
    if refusal is not None:
        meant = [place for place, label in enumerate(labels) if label == refusal]
    elif set(fine) <= set(FINE_CLASSES) and "full_refusal" in fine:
        return fine
    else:
        meant = [
            place
            for place, name in enumerate(plain)
            if _REFUSAL.search(name) and not _NEGATION.search(name)
        ]
    if len(meant) != 1 or len(labels) < 2:
        return None
    return tuple("full_refusal" if place == meant[0] else "answer" for place in range(len(labels)))


def sequence_classifier_of(argument: str, *, with_prompt: bool = False) -> SequenceClassifier:
    """The classifier that ``MODEL`` or ``MODEL#LABEL`` names."""
    source, _, label = argument.partition("#")
    return SequenceClassifier(source, label or None, with_prompt)


@scorer("sequence-classifier", title="sequence classifier")
def sequence_classifier(argument: str) -> Scorer:
    """Any Hugging Face classifier of responses, ``sequence-classifier:MODEL#LABEL``."""
    return ModelScorer(sequence_classifier_of(argument))


@scorer("pair-classifier", title="pair classifier")
def pair_classifier(argument: str) -> Scorer:
    """A Hugging Face classifier of prompts and responses together, ``pair-classifier:MODEL``."""
    return ModelScorer(sequence_classifier_of(argument, with_prompt=True))
