"""Refusal and compliance prefixes: a tree of tokens, as deep as the two classes need.

The tree is learned once, from the base model's own refusals (R) and answers (C) as token ids, and
then frozen. A node is a prefix of responses. It holds r and c, the shares of the two classes whose
responses begin with it. A node in which one class is rare is a leaf of the other class. Where both
are frequent, the node's children are looked at, if they separate the classes. A node that separates
at no depth is ambiguous and belongs to neither class.

If refusals and answers never begin with the same token, all leaves have one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from interp.errors import InputError

ResponsePrefix = tuple[int, ...]
Response = Sequence[int]

# A prefix has at most as many tokens.
DEEPEST = 8
# Paths of inner nodes that no other path contains; each costs one forward with gradients.
MOST_PATHS = 8
# Least share of a prefix in its class: rarer prefixes are often mistakes of the scorer. A node is
# expanded only for a minority above it.
RAREST = 0.005
# A node is a leaf of its larger class while the smaller one has less than this part of its mass.
STRAY = 0.05


@dataclass(frozen=True)
class ResponsePrefixes:
    """The leaves of the two classes, as token ids. No prefix begins another one.

    Attributes:
        refusal: prefixes of the class R.
        compliance: prefixes of the class C.
    """

    refusal: tuple[ResponsePrefix, ...]
    compliance: tuple[ResponsePrefix, ...]

    def __post_init__(self) -> None:
        leaves = [*self.refusal, *self.compliance]
        if len(set(leaves)) < len(leaves) or set(leaves) & set(self.inner):
            raise InputError(
                "a refusal or compliance prefix occurs twice or begins another one; give prefixes "
                "of which none begins another"
            )

    @cached_property
    def inner(self) -> tuple[ResponsePrefix, ...]:
        """The inner nodes: all beginnings of prefixes, the shortest first; the first is ``()``."""
        leaves = (*self.refusal, *self.compliance)
        found = {leaf[:depth] for leaf in leaves for depth in range(len(leaf))}
        return tuple(sorted(found | {()}, key=lambda node: (len(node), node)))

    @cached_property
    def paths(self) -> tuple[ResponsePrefix, ...]:
        """The inner nodes that begin no other inner node."""
        parents = {node[:-1] for node in self.inner if node}
        return tuple(node for node in self.inner if node not in parents)

    def of(self, response: Response) -> ResponsePrefix | None:
        """The prefix with which a response begins, of either class; ``None`` if there is none."""
        begins = {tuple(response[:depth]) for depth in range(1, DEEPEST + 1)}
        return next((leaf for leaf in (*self.refusal, *self.compliance) if leaf in begins), None)


def find_prefixes(
    refusals: Sequence[Response],
    answers: Sequence[Response],
    *,
    refusal_weights: Sequence[float] | None = None,
    answer_weights: Sequence[float] | None = None,
) -> ResponsePrefixes:
    """R and C from the base model's refusals and its answers to benign prompts, as token ids.

    Args:
        refusals, answers: responses.
        refusal_weights, answer_weights: weight of each response in its class; all alike by default.

    Raises:
        InputError: there are no refusals or no answers, or no prefix of at most 8 tokens separates
            a part of them.
    """
    if not len(refusals) or not len(answers):
        raise InputError(
            f"the model gave {len(refusals)} refusals and {len(answers)} answers to benign "
            "prompts; both are needed to find refusal prefixes. Check that the model is aligned,"
            " that --scorer knows its refusals, and that --max-new-tokens is large enough"
        )
    root = _Node((), _weighted(refusals, refusal_weights), _weighted(answers, answer_weights))
    inner, frontier = {root.prefix}, list(root.children)
    while (node := _next(frontier, inner)) is not None:
        frontier.remove(node)
        frontier += node.children
        inner.add(node.prefix)
    refusal = sorted(node.prefix for node in frontier if node.leaf_of == "R")
    compliance = sorted(node.prefix for node in frontier if node.leaf_of == "C")
    if not refusal or not compliance:
        raise InputError(
            f"{len(refusals)} refusals and {len(answers)} answers to benign prompts begin with the "
            "same words, so no prefixes separate them; words that every answer begins with can be "
            "given with --response-prefix"
        )
    return ResponsePrefixes(tuple(refusal), tuple(compliance))


_Weighted = tuple[tuple[Response, float], ...]


def _weighted(responses: Sequence[Response], weights: Sequence[float] | None) -> _Weighted:
    """Responses with their shares of the class's total weight."""
    given = [1.0] * len(responses) if weights is None else [float(w) for w in weights]
    total = sum(given)
    shares = (weight / total for weight in given)
    return tuple((tuple(map(int, one)), w) for one, w in zip(responses, shares, strict=True))


@dataclass(frozen=True, eq=False)
class _Node:
    """A prefix with the refusals and answers that begin with it, and their shares."""

    prefix: ResponsePrefix
    refusals: _Weighted
    answers: _Weighted

    @cached_property
    def masses(self) -> tuple[float, float]:
        """The shares (r, c) of the two classes."""
        return sum(w for _, w in self.refusals), sum(w for _, w in self.answers)

    @property
    def minority(self) -> float:
        return min(self.masses)

    @cached_property
    def leaf_of(self) -> str | None:
        """``R`` or ``C``, if the other class is rare here and the node itself is not."""
        r, c = self.masses
        if max(r, c) < RAREST or min(r, c) >= STRAY * (r + c):
            return None
        return "R" if r > c else "C"

    @cached_property
    def children(self) -> tuple[_Node, ...]:
        depth = len(self.prefix)
        if depth == DEEPEST:
            return ()
        sides: list[Mapping[int, list[tuple[Response, float]]]] = []
        for side in (self.refusals, self.answers):
            by_token: dict[int, list[tuple[Response, float]]] = {}
            for response, weight in side:
                if len(response) > depth:
                    by_token.setdefault(response[depth], []).append((response, weight))
            sides.append(by_token)
        tokens = sorted({token for side in sides for token in side})
        return tuple(
            _Node((*self.prefix, t), *(tuple(side.get(t, ())) for side in sides)) for t in tokens
        )

    @cached_property
    def separated(self) -> float:
        """The share of both classes in leaves at or below this node, if all of it is expanded."""
        if self.leaf_of:
            return sum(self.masses)
        if self.minority <= RAREST:
            return 0.0
        return sum(child.separated for child in self.children)


def _next(frontier: Sequence[_Node], inner: set[ResponsePrefix]) -> _Node | None:
    """The node to expand: the largest minority among those that something separates below."""
    open_nodes = [
        node
        for node in frontier
        if not node.leaf_of
        and node.minority > RAREST
        and node.separated > RAREST
        and _count_paths({*inner, node.prefix}) <= MOST_PATHS
    ]
    return max(open_nodes, key=lambda node: (node.minority, node.prefix), default=None)


def _count_paths(inner: set[ResponsePrefix]) -> int:
    return len(inner) - len({node[:-1] for node in inner if node})


def shared_weights(domains: Sequence[object], prompts: Sequence[object]) -> Iterator[float]:
    """Weights of responses with which every domain and, inside it, every prompt counts alike.

    A domain with fewer than 8 prompts counts less, in proportion, so that a single mistake of the
    scorer cannot count as much as another domain's fifty responses.
    """
    asked: dict[object, dict[object, int]] = {}
    for domain, prompt in zip(domains, prompts, strict=True):
        counts = asked.setdefault(domain, {})
        counts[prompt] = counts.get(prompt, 0) + 1
    for domain, prompt in zip(domains, prompts, strict=True):
        yield 1 / max(len(asked[domain]), 8) / asked[domain][prompt]
