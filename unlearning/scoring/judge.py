"""A judge: a language model behind an endpoint that classifies answers by a rubric.

The verdict is one word. After any other reply, the judge is asked once more and sees that reply.
If the second reply is also invalid, the answer has no verdict (``None``), and the caller must
report this. Verdicts are cached on disk, so a repeated or resumed run sends no request twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp.errors import InputError
from interp.progress import Advance, silent
from unlearning.scoring.classes import Scorer, Texts
from unlearning.scoring.reading import ModelScorer, Workload, estimated_tokens
from unlearning.scoring.registry import scorer
from unlearning.scoring.rubrics import REFUSAL, RUBRICS, Rubric
from unlearning.serving import Endpoint, shared_folder

#: Maximum tokens of a reply. A verdict takes three; models that think first need the rest.
REPLY_TOKENS = 1024
VERDICT_TOKENS = 3
SHOWN_OF_A_REPLY = 400


@dataclass(frozen=True)
class Judge:
    """A judge behind an endpoint.

    Attributes:
        endpoint: the server to ask; give it a cache.
        rubric: the question to the judge.
    """

    endpoint: Endpoint
    rubric: Rubric = REFUSAL

    @property
    def name(self) -> str:
        return f"judge:{self.endpoint.model}"

    @property
    def version(self) -> str:
        return f"{self.rubric.name}-{self.rubric.version}"

    @property
    def when_empty(self) -> str:
        return self.rubric.when_empty

    def workload(self, prompts: Texts, responses: Texts) -> Workload:
        """The cost of :meth:`read`; tokens are estimated from the size of the text."""
        asked = self._questions(prompts, responses)
        to_ask = self.endpoint.to_ask(asked, max_tokens=REPLY_TOKENS)
        distinct = len({conversation[0]["content"] for conversation in asked})
        return Workload(
            calls=len(to_ask),
            read=estimated_tokens(asked[place][0]["content"] for place in to_ask),
            written=VERDICT_TOKENS * len(to_ask),
            kept=distinct - len(to_ask),
            paid=True,
            notes=(
                "Tokens are estimated (4 bytes each). A verdict is one word; a judge that thinks "
                f"first writes more, up to {REPLY_TOKENS} tokens per request.",
            ),
        )

    def read(
        self, prompts: Texts, responses: Texts, *, progress: Advance = silent
    ) -> list[str | None]:
        """The class of each answer by the rubric; ``None`` if two replies contain no verdict.

        Raises:
            SpilloverError: the endpoint does not answer; its cache keeps earlier verdicts.
        """
        asked = self._questions(prompts, responses)
        replies = self.endpoint.complete(asked, max_tokens=REPLY_TOKENS, progress=progress)
        found = [self.rubric.verdict(reply.text) for reply in replies]
        unclear = [place for place, text_class in enumerate(found) if text_class is None]
        repaired = self.endpoint.complete(
            [self._asked_again(asked[place], replies[place].text) for place in unclear],
            max_tokens=REPLY_TOKENS,
        )
        for place, reply in zip(unclear, repaired, strict=True):
            found[place] = self.rubric.verdict(reply.text)
        return found

    def _questions(self, prompts: Texts, responses: Texts) -> list[list[Mapping[str, str]]]:
        # One user turn, no system turn: some templates that servers render refuse one.
        return [
            [{"role": "user", "content": self.rubric.question(prompt, response)}]
            for prompt, response in zip(prompts, responses, strict=True)
        ]

    def _asked_again(
        self, conversation: Sequence[Mapping[str, str]], reply: str
    ) -> list[Mapping[str, str]]:
        return [
            *conversation,
            {"role": "assistant", "content": reply[:SHOWN_OF_A_REPLY] or "(no reply)"},
            {"role": "user", "content": f"That is not a verdict. {self.rubric.reminder}"},
        ]


def model_and_address(argument: str, kind: str = "judge") -> tuple[str, str | None]:
    """The parts of ``MODEL`` or ``MODEL@URL``; either may be missing.

    Raises:
        InputError: the address has no scheme.
    """
    # A model's name may contain an @; an address begins with its scheme.
    model, *url = re.split(r"@(?=https?://)", argument, maxsplit=1)
    if re.search(r"@[^@\s]+:\d+", model):
        raise InputError(f"{kind}:{argument}: an address begins with http:// or https://")
    return model, url[0] if url else None


def judge_of(argument: str, rubric: Rubric = REFUSAL) -> Judge:
    """The judge that ``MODEL`` or ``MODEL@URL`` names, with the user's shared cache.

    Raises:
        InputError: no model is named, the address is invalid, or the extra ``judge`` is missing.
    """
    return Judge(Endpoint(*model_and_address(argument), shared_folder()), rubric)


@scorer("judge", title="LLM judge", scales=tuple(RUBRICS))
def judge(argument: str, scale: str) -> Scorer:
    """A judge behind a server, ``judge:MODEL@URL``."""
    return ModelScorer(judge_of(argument, RUBRICS[scale]))
