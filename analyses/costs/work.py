"""The work of a command in countable units; rates of a device turn it into seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields

# Share of the maximum length to which a batch of a chat model's answers usually goes.
USUAL_ANSWER = 0.95


@dataclass(frozen=True)
class Work:
    """Numbers of things to do.

    Attributes:
        rows: prompts that are encoded, padded, and read or answered.
        read: tokens in forwards without gradients.
        generated: tokens of answers, one for each row and decoding step.
        trained: tokens in forwards with a backward.
        steps: optimizer steps.
        scored: tables of scores.
        arms: models that are loaded, checked and compared with the base.
        pages: reports with their tables and figures.
        maps: pairs of domains whose cosines are taken, and rotations, in every layer.
        answers: generated answers, which a scorer reads.
    """

    rows: float = 0.0
    read: float = 0.0
    generated: float = 0.0
    trained: float = 0.0
    steps: float = 0.0
    scored: float = 0.0
    arms: float = 0.0
    pages: float = 0.0
    maps: float = 0.0
    answers: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)))

    def __mul__(self, times: float) -> Work:
        return Work(*(getattr(self, f.name) * times for f in fields(Work)))


@dataclass(frozen=True)
class Extent:
    """Work as it is expected, and an upper bound: training may stop early, answers may be short."""

    expected: Work
    at_most: Work

    def __add__(self, other: Extent) -> Extent:
        return Extent(self.expected + other.expected, self.at_most + other.at_most)

    def times(self, number: float) -> Extent:
        """The same work ``number`` times."""
        return Extent(self.expected * number, self.at_most * number)


def once(work: Work) -> Extent:
    """Work that is the same in any case."""
    return Extent(work, work)


@dataclass(frozen=True)
class Reading:
    """The work on prompts of one kind.

    Attributes:
        prompt: mean tokens of a prompt.
        own: of these, tokens after the beginning that all prompts share, which is read once.
        answer: maximum tokens of an answer.
        usual: share of them to which a batch of answers usually goes.
    """

    prompt: float
    own: float
    answer: float
    usual: float = USUAL_ANSWER

    def answers(self, rows: float) -> Extent:
        """Generate an answer to each row."""
        return Extent(
            Work(
                rows, read=rows * self.own, generated=rows * self.answer * self.usual, answers=rows
            ),
            Work(rows, read=rows * self.prompt, generated=rows * self.answer, answers=rows),
        )

    def forced(self, rows: float) -> Extent:
        """Read each row with its answer, for the coherence of the answer."""
        return Extent(
            Work(rows, read=rows * (self.prompt + self.answer * self.usual)),
            Work(rows, read=rows * (self.prompt + self.answer)),
        )

    def states(self, rows: float) -> Extent:
        """Collect the states of each row, the beginning that all share included."""
        return once(Work(rows, read=rows * self.prompt))

    def masses(self, rows: float) -> Extent:
        """Read the refusal log-odds of each row: a forward, and a step for each inner node."""
        return Extent(
            Work(rows, read=rows * self.own, generated=rows * USUAL_NODES, scored=1),
            Work(rows, read=rows * self.prompt, generated=rows * MOST_NODES, scored=1),
        )


# Inner nodes of a tree of prefixes below its root: none on the model organism, 2 or 3 on SmolLM2;
# at most 8.
USUAL_NODES, MOST_NODES = 2, 8
# Of a study's report, the part that each arm adds with its tables and figures.
ARM_OF_A_PAGE = 0.6
