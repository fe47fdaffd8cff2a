"""Answers are written to disk as they come, so an interrupted generation can continue.

The log has one JSON line for each answer, appended and synced batch by batch. Every line carries
a key of everything on which its answer depends (model, chat format, settings). Lines with other
keys are kept and not used, so answers of different settings are never mixed. An incomplete line,
as a kill or a full disk leaves it, counts as absent.

``spillover score`` reads the fields ``prompt`` and ``response``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from interp.errors import MachineError
from interp.progress import Advance, silent
from interp.store import is_out_of_room
from unlearning.data import text_hash


@dataclass(frozen=True)
class Answer:
    """One generated response.

    Attributes:
        ids: its tokens, end of turn included where it was reached; empty where a server answered.
        text: without special tokens and without white space around it; thoughts are in ``<think>``
            and ``</think>``.
        finished: whether the model ended it, not the limit on new tokens.
        nll: -log p of every token under the model that generated it, in nats, at temperature 1;
            None if unknown (a server's answer, a forced opening, a log of an older version).
    """

    ids: tuple[int, ...]
    text: str
    finished: bool
    # Rounding differs between batches; two answers with the same tokens are equal.
    nll: tuple[float, ...] | None = field(default=None, compare=False)


class AskedPrompt(NamedTuple):
    """A prompt, and the number of its answer: 0, 1, … where several are sampled."""

    prompt: str
    sample: int


def each_asked(
    prompts: Sequence[str], *, sampled: bool, first_sample: int = 0
) -> list[AskedPrompt]:
    """The requests for all prompts, in order.

    In sampling, a prompt's second occurrence is a second sample; the first one has the number
    ``first_sample``. In greedy decoding all its answers are equal, so it needs one.
    """
    met = Counter(dict.fromkeys(prompts, first_sample if sampled else 0))
    asked = []
    for prompt in prompts:
        asked.append(AskedPrompt(prompt, met[prompt]))
        met[prompt] += sampled
    return asked


def answer_all(
    asked: Sequence[AskedPrompt],
    make: Callable[[list[AskedPrompt]], Iterable[Mapping[AskedPrompt, Answer]]],
    *,
    log: AnswerLog | None = None,
    progress: Advance = silent,
) -> list[Answer]:
    """The answers in order: from the log where it has them, else from ``make``.

    Args:
        asked: may hold a request more than once.
        make: yields the answers to the given requests, batch by batch; it gets each request once.
        log: every batch is written to it before the next one begins.
        progress: called with the number of answers that were just obtained.
    """
    counts = Counter(asked)
    found = {one: kept for one in counts if log is not None and (kept := log.get(one))}

    def advance(answers: Iterable[AskedPrompt]) -> None:
        progress(sum(counts[one] for one in answers))

    if found:
        advance(found)
    missing = [one for one in counts if one not in found]
    for batch in make(missing) if missing else ():
        if log is not None:
            log.add(batch)
        found |= batch
        advance(batch)
    return [found[one] for one in asked]


class AnswerLog:
    """A file of answers made under one key.

    Args:
        path: a JSONL file; created, with its folder, when the first answers are added.
        key: of everything on which an answer depends except the prompt.
        say: called with a message if the file holds answers with other keys.
        note: a likely cause of other keys, for this message.
    """

    def __init__(
        self,
        path: str | Path,
        key: str,
        *,
        say: Callable[[str], object] = warnings.warn,
        note: str = "",
    ) -> None:
        self.path = Path(path)
        self._key = text_hash(key)
        self._answers, others = _read(self.path, self._key)
        if others:
            say(
                f"{self.path}: {others} answers of another model or of other settings stay in the "
                "file and are not used" + (f"; {note}" if note else "")
            )

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, asked: AskedPrompt) -> Answer | None:
        """The answer, if the log has it."""
        return self._answers.get(asked)

    def add(self, answers: Mapping[AskedPrompt, Answer]) -> None:
        """Append ``answers``; they are on the disk when this returns.

        Raises:
            MachineError: the disk is full. Answers that were added before are kept.
        """
        lines = (self._line(asked, answer) for asked, answer in answers.items())
        try:
            _append(self.path, "".join(lines).encode("ascii"))
        except OSError as error:
            if not is_out_of_room(error):
                raise
            raise MachineError(
                f"no room to write {self.path} ({error.strerror}); make room and give the same "
                f"command again: {len(self)} answers are kept"
            ) from error
        self._answers |= answers

    def _line(self, asked: AskedPrompt, answer: Answer) -> str:
        # Plain ASCII: a byte lost inside a line cannot change it into other text.
        fields = {
            "key": self._key,
            "prompt": asked.prompt,
            "sample": asked.sample,
            "response": answer.text,
            "ids": answer.ids,
            "finished": answer.finished,
            **({} if answer.nll is None else {"nll": answer.nll}),
        }
        return json.dumps(fields) + "\n"


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # after a torn line, begin a new one
                data = b"\n" + data
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def _read(path: Path, key: str) -> tuple[dict[AskedPrompt, Answer], int]:
    """The answers under ``key``, and the number of complete lines with another key."""
    found: dict[AskedPrompt, Answer] = {}
    others = 0
    if not path.exists():
        return found, others
    with path.open("rb") as file:
        for line in file:
            try:
                fields = json.loads(line.decode("ascii"))
                asked = AskedPrompt(fields["prompt"], fields["sample"])
                nll = tuple(fields["nll"]) if "nll" in fields else None
                answer = Answer(tuple(fields["ids"]), fields["response"], fields["finished"], nll)
                mine = fields["key"] == key
            except (ValueError, KeyError, TypeError):
                continue  # torn
            if mine:
                found[asked] = answer
            others += not mine
    return found, others
