"""A model's refusal over prompts: masses at the first answer position, and classes of its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interp.chat import Tokens
from interp.model import LanguageModel
from unlearning.generation import Answer, generate
from unlearning.refusal import Openers, opener_masses
from unlearning.scorers import Scorer, refused

if TYPE_CHECKING:
    import pandas as pd

DESCRIPTION = ["id", "domain", "label", "kind", "split"]


class Evaluation:
    """The prompts that a model is scored on along a run, rendered once.

    Args:
        lm: gives the chat format; scoring may be done with any model of the same tokenizer.
        prompts: a prompts table.
        openers: the base model's, frozen.
        scorer: puts generated text into classes.
        max_new_tokens: of a generated answer.
        batch_size: prompts in one forward.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: pd.DataFrame,
        openers: Openers,
        scorer: Scorer,
        *,
        max_new_tokens: int,
        batch_size: int = 256,
    ) -> None:
        self.prompts = prompts.reset_index(drop=True)
        self.rows: list[Tokens] = [lm.chat.encode(prompt) for prompt in self.prompts["prompt"]]
        self.openers = openers
        self.scorer = scorer
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size

    def masses(self, lm: LanguageModel) -> pd.DataFrame:
        """A row for each prompt with p_R, p_C, p_O, margin; ``class`` and ``refused`` empty."""
        found = opener_masses(lm, self.rows, self.openers, batch_size=self.batch_size)
        columns = {"prompt_id": self.prompts["id"]}
        columns |= {name: self.prompts[name] for name in ("split", "domain", "label", "kind")}
        import pandas as pd

        table = pd.DataFrame(columns).assign(
            scorer=self.scorer.name,
            p_R=found.p_R,
            p_C=found.p_C,
            p_O=found.p_O,
            margin=found.margin,
        )
        table["class"] = pd.Series([None] * len(table), dtype="object")
        table["refused"] = pd.Series([float("nan")] * len(table))
        return table

    def with_text(
        self, lm: LanguageModel, *, progress: Callable[[int], None] | None = None
    ) -> tuple[pd.DataFrame, list[Answer]]:
        """:meth:`masses`, with the class of the greedily generated answer beside it."""
        table = self.masses(lm)
        texts = list(self.prompts["prompt"])
        answers = generate(
            lm,
            texts,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            progress=progress,
        )
        classes = self.scorer.classify(texts, [answer.text for answer in answers])
        table["class"] = classes
        table["refused"] = [float(refused(name)) for name in classes]
        return table, answers
