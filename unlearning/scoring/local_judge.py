"""A local language model as judge: its most probable verdict counts, so no reply is parsed.

Each text takes one forward. At the first position of the reply, the judge reads the probability of
each verdict's word, in lower case or with a capital; the most probable verdict wins. If all
verdicts together have little mass, the model does not follow the rubric (for example a base model,
or one that always thinks first), and it is not used.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile

import numpy as np
import torch
from jaxtyping import Float

from interp.errors import InputError, ModelError
from interp.model import LanguageModel, Tokens, check_source, map_in_batches, require_room
from interp.progress import Advance, silent
from unlearning.scoring.classes import Scorer, Texts
from unlearning.scoring.reading import (
    ModelScorer,
    Workload,
    estimated_tokens,
    local_digest,
    model_name,
    without_special_tokens,
)
from unlearning.scoring.registry import scorer
from unlearning.scoring.rubrics import REFUSAL, RUBRICS, Rubric

#: Median probability of all verdicts together, below which a model does not follow the rubric.
LEAST_MASS = 0.05


@dataclass(frozen=True)
class LocalJudge:
    """Any causal language model as judge, loaded when first asked.

    Attributes:
        source: hub id or folder, as :meth:`LanguageModel.load` takes it.
        rubric: the question to the judge.
        batch_size: texts in one forward, halved when memory runs out.
        least_mass: the least median probability of all verdicts together.
        device: where it runs (default: CUDA if available).

    Raises:
        ModelError: the folder does not contain a model.
    """

    source: str
    rubric: Rubric = REFUSAL
    batch_size: int = 8
    least_mass: float = field(default=LEAST_MASS, kw_only=True)
    device: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.source:
            raise InputError("no model named; expected local-judge:MODEL")
        check_source(self.source)

    @property
    def name(self) -> str:
        return f"local-judge:{model_name(self.source)}"

    @cached_property
    def version(self) -> str:
        return f"{self.rubric.name}-{self.rubric.version}{local_digest(self.source)}"

    @property
    def when_empty(self) -> str:
        return self.rubric.when_empty

    def on(self, device: str) -> LocalJudge:
        """The same judge on a device."""
        return replace(self, device=device)

    @cached_property
    def lm(self) -> LanguageModel:
        """The model; its chat format switches thinking off if the template allows it."""
        return LanguageModel.load(
            self.source, device=self.device, template_arguments={"enable_thinking": False}
        )

    def workload(self, prompts: Texts, responses: Texts) -> Workload:
        """The cost of :meth:`read`. Tokens are estimated, because the model is not loaded."""
        questions = list(map(self.rubric.question, prompts, responses))
        return Workload(
            len(questions),
            estimated_tokens(questions),
            notes=("Tokens are estimated.",),
            model=self.source,
            batch_size=self.batch_size,
        )

    def read(
        self, prompts: Texts, responses: Texts, *, progress: Advance = silent
    ) -> list[str | None]:
        """The most probable class of each answer; every answer has one.

        Raises:
            ModelError: the model cannot be loaded, or does not reply with verdicts.
            InputError: a question is longer than the model's context.
        """
        found = self.probabilities(prompts, responses, progress=progress)
        if len(found) and (mass := float(np.median(found.sum(axis=1)))) < self.least_mass:
            raise ModelError(
                f"{self.name} cannot judge: all verdicts together have a probability of "
                f"{mass:.1e}; use a model that follows instructions and does not think first"
            )
        classes = list(self.rubric.verdicts.values())
        return [classes[place] for place in found.argmax(axis=1)]

    @torch.no_grad()
    def probabilities(
        self, prompts: Texts, responses: Texts, *, progress: Advance = silent
    ) -> Float[np.ndarray, "answer verdict"]:
        """Probability that the reply begins with each verdict, in the rubric's order.

        Rows do not sum to 1: the rest is the probability of other replies.

        Raises:
            MachineError: a single question does not fit into memory; larger batches are halved.
        """
        lead, openings = self._openings()
        rows = [self._encoded(*pair, lead) for pair in zip(prompts, responses, strict=True)]
        require_room(self.lm.model, self.lm.tokenizer, rows)

        def read(chosen: list[int]) -> Float[np.ndarray, "chosen verdict"]:
            batch = self.lm.chat.pad([rows[i] for i in chosen], self.lm.device)
            logits = self.lm.logits(batch, keep=1)[:, -1]
            probability = logits.float().log_softmax(dim=-1).cpu().double().exp()
            return np.stack([probability[:, list(ids)].sum(dim=-1) for ids in openings], axis=1)

        together = self.lm.together(rows)
        found = map_in_batches(read, rows, self.batch_size, progress, together)
        return np.reshape(found, (-1, len(openings)))

    def _encoded(self, prompt: str, response: str, lead: tuple[int, ...]) -> Tokens:
        texts = (without_special_tokens(text, self.lm.tokenizer) for text in (prompt, response))
        question = self.rubric.question(*texts)
        # The whole conversation up to the verdict, for instance with an empty thought before it.
        tokens = self.lm.chat.encode(question, next(iter(self.rubric.verdicts)))
        start = tokens.spans["response"].start
        spans = {name: span for name, span in tokens.spans.items() if name != "response"}
        return Tokens(tokens.ids[:start] + lead, spans)

    def _openings(self) -> tuple[tuple[int, ...], list[frozenset[int]]]:
        """Tokens that all verdicts share at their beginning, and each verdict's next tokens."""
        words = list(self.rubric.verdicts)
        # Some tokenizers write the space before a word as a separate token.
        columns = zip(*map(self._spelt, words), strict=False)
        lead = tuple(column[0] for column in takewhile(lambda c: len(set(c)) == 1, columns))
        found = [
            {
                ids[len(lead)]
                for ids in (self._spelt(word), self._spelt(word.capitalize()))
                if ids[: len(lead)] == lead
            }
            for word in words
        ]
        times = Counter(token for ids in found for token in ids)
        openings = [frozenset(token for token in ids if times[token] == 1) for ids in found]
        if not all(openings):
            raise ModelError(
                f"{self.name}: in its tokenizer several verdicts begin with the same token; "
                "use another model"
            )
        return lead, openings

    def _spelt(self, word: str) -> tuple[int, ...]:
        tokens = self.lm.chat.encode("", word)
        return tokens.ids[tokens.spans["response"]]


@scorer("local-judge", title="local LLM judge", scales=tuple(RUBRICS))
def local_judge(argument: str, scale: str) -> Scorer:
    """A judge in this process, ``local-judge:MODEL``."""
    return ModelScorer(LocalJudge(argument, RUBRICS[scale]))
