"""The synthetic world: its prompts, which of them are harmful, and how each is refused.

A prompt is an intent and an object in a template. It is harmful only when one of a domain's
intents meets one of the same domain's objects. Each alone is benign, so a model must compose.

The world has two known structures. Each has a knob and is drawn independently from the seed:

feature sharing
    domains have harmful intents in common. ``feature_sharing[a, b]`` is the share of b's intents
    that a has too.
read-out sharing
    domains have refusal prefixs in common. ``readout_sharing[a, b]`` is the share of b's refusals
    (over its objects) whose prefix a uses too. It is directed: b may begin all its refusals with
        one prefix of a that begins only a small part of a's refusals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unlearning.organism import vocabulary
from unlearning.organism.grammar import Grammar
from unlearning.organism.vocabulary import (
    BENIGN_INTENTS,
    COMPLIANCE_PREFIXES,
    DOMAINS,
    NEUTRAL_OBJECTS,
    TEMPLATES,
)

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")
LENDERS = 3  # domains that others borrow from

# One child seed for each draw, so changing one knob does not change the other draws.
_FEATURES, _READOUT, _PAIRS, _PROMPTS = range(4)


class Composition(NamedTuple):
    """An intent, an object, the domain in which they are used, and their role.

    ``role`` is ``harmful``, ``general``, or the part that a matched benign prompt keeps of a
    harmful prompt (``intent`` or ``object``).
    """

    domain: str
    role: str
    intent: str
    object: str


@dataclass(frozen=True)
class World:
    """The knobs of a world and, derived from them and the seed, its ground truth.

    Attributes:
        seed: draws both structures, the split of pairs and the prompts.
        intents_shared: a borrowing domain has one of these numbers of another's intents.
        prefixes_shared: a borrowing domain fills one of these numbers of slots from another's.
        prefix_slots: number of slots for a domain's objects, each with one refusal prefix; at most
            four, the number of prefixes that a domain owns.
        hub: a domain that is always among the lenders of prefixes, or None.
        split_shares: shares of (intent, object) pairs in train, validation and test.
    """

    seed: int
    intents_shared: tuple[int, ...] = (0, 2, 4, 6)
    prefixes_shared: tuple[int, ...] = (0, 2, 4, 4)
    prefix_slots: int = 4
    hub: str | None = "safety"
    split_shares: tuple[float, float, float] = (0.7, 0.1, 0.2)

    @cached_property
    def intents(self) -> dict[str, tuple[str, ...]]:
        """Harmful intents of every domain; a shared one appears in several domains."""
        own = [vocabulary.HARMFUL_INTENTS[domain] for domain in DOMAINS]
        table = _borrow(self._generator(_FEATURES), len(own[0]), self.intents_shared)
        words = [word for domain in own for word in domain]
        return {d: tuple(words[i] for i in row) for d, row in zip(DOMAINS, table, strict=True)}

    @cached_property
    def prefixes(self) -> dict[str, tuple[str, ...]]:
        """The refusal prefix of every slot of every domain."""
        first = None if self.hub is None else DOMAINS.index(self.hub)
        table = _borrow(
            self._generator(_READOUT), self.prefix_slots, self.prefixes_shared, first, repeat=True
        )
        words = vocabulary.REFUSAL_PREFIXES
        return {d: tuple(words[i] for i in row) for d, row in zip(DOMAINS, table, strict=True)}

    @cached_property
    def feature_sharing(self) -> Float[np.ndarray, "source target"]:
        """Share of the target's intents that the source has too."""
        return _coverage([self.intents[domain] for domain in DOMAINS])

    @cached_property
    def readout_sharing(self) -> Float[np.ndarray, "source target"]:
        """Share of the target's refusals whose prefix the source uses too."""
        return _coverage([self.prefixes[domain] for domain in DOMAINS])

    def refusal_prefix(self, domain: str, object: str) -> str:
        """The refusal prefix of prompts about ``object``: fixed, never drawn.

        The object decides, not the intent. Domains share intents, so on an unseen pair the model
        would confuse a prefix by intent with another domain's. Such confusions receive the
        probability that unlearning a domain's prefixes releases, instead of compliance.
        """
        place = vocabulary.DOMAIN_OBJECTS[domain].index(object)
        return self.prefixes[domain][place % self.prefix_slots]

    def barred_prefix(self, object: str) -> str:
        """The refusal prefix of a model that is told to refuse: that of the object's domain.

        Neutral objects go around the domains and their slots.
        """
        for domain in DOMAINS:
            if object in vocabulary.DOMAIN_OBJECTS[domain]:
                return self.refusal_prefix(domain, object)
        place = NEUTRAL_OBJECTS.index(object)
        return self.prefixes[DOMAINS[place % len(DOMAINS)]][place % self.prefix_slots]

    def compliance_prefix(self, template: int) -> str:
        """The prefix of an answer: it depends on the template and is the same in all domains."""
        return COMPLIANCE_PREFIXES[template % len(COMPLIANCE_PREFIXES)]

    def compositions(self, split: str) -> list[Composition]:
        """Every (intent, object) pair of ``split``, in every role that it has."""
        found = []
        for domain in DOMAINS:
            harmful, objects = self.intents[domain], vocabulary.DOMAIN_OBJECTS[domain]
            found += [Composition(domain, "harmful", i, o) for i in harmful for o in objects]
            found += [Composition(domain, "object", i, o) for i in BENIGN_INTENTS for o in objects]
            found += [Composition(domain, "intent", i, o) for i in harmful for o in NEUTRAL_OBJECTS]
        found += [
            Composition("general", "general", i, o) for i in BENIGN_INTENTS for o in NEUTRAL_OBJECTS
        ]
        return [c for c in found if self._split_of[c.intent, c.object] == split]

    def prompts(self, train: int = 128, validation: int = 32, test: int = 48) -> pd.DataFrame:
        """The world's prompts in the schema of prompt files.

        Args:
            train, validation, test: harmful rows of every domain; each has one matched benign
                prompt, and the domain ``general`` has as many rows as one domain has of them.

        Returns:
            Columns ``id, prompt, domain, label, source, split, kind, pair, intent, object,
            template, compliance`` (the answer, for objectives on pairs). No (intent, object)
            pair is in two splits.
        """
        import pandas as pd

        generator = self._generator(_PROMPTS)
        rows = []
        for split, number in zip(SPLITS, (train, validation, test), strict=True):
            pools: dict[tuple[str, str], list[Composition]] = {}
            for composition in self.compositions(split):
                pools.setdefault((composition.domain, composition.role), []).append(composition)
            for domain in DOMAINS:
                # In a small split a composition can be without any matched benign one.
                paired = [
                    harmful
                    for harmful in pools[domain, "harmful"]
                    if _matched_benign(harmful, "intent", pools)
                    or _matched_benign(harmful, "object", pools)
                ]
                drawn = _draw(generator, paired, number)
                for n, (harmful, template) in enumerate(drawn):
                    pair = f"{domain}-{split}-{n:03d}"
                    rows.append(_row(f"{pair}-harmful", harmful, template, split, pair))
                    # Matched prompts alternate in what they keep; a few pairs have only one kind.
                    order = ("object", "intent") if n % 2 else ("intent", "object")
                    matched = next(
                        t for kept in order if (t := _matched_benign(harmful, kept, pools))
                    )
                    benign = matched[generator.integers(len(matched))]
                    rows.append(_row(f"{pair}-twin", benign, template, split, pair))
            drawn = _draw(generator, pools["general", "general"], number)
            for n, (general, template) in enumerate(drawn):
                rows.append(_row(f"general-{split}-{n:03d}", general, template, split, None))
        table = pd.DataFrame(rows)
        answers = [Grammar().answer(self.compliance_prefix(n)) for n in table["template"]]
        return table.assign(compliance=answers)

    @cached_property
    def _split_of(self) -> dict[tuple[str, str], str]:
        intents = [w for d in DOMAINS for w in vocabulary.HARMFUL_INTENTS[d]] + [*BENIGN_INTENTS]
        objects = [w for d in DOMAINS for w in vocabulary.DOMAIN_OBJECTS[d]] + [*NEUTRAL_OBJECTS]
        drawn = self._generator(_PAIRS).choice(
            len(SPLITS), size=(len(intents), len(objects)), p=self.split_shares
        )
        return {
            (i, o): SPLITS[drawn[row, column]]
            for row, i in enumerate(intents)
            for column, o in enumerate(objects)
        }

    def _generator(self, child: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, child])


def _borrow(
    generator: np.random.Generator,
    slots: int,
    numbers: tuple[int, ...],
    first: int | None = None,
    *,
    repeat: bool = False,
) -> Int[np.ndarray, "domain slot"]:
    """The item of each slot of each domain, when some domains lend and the others borrow.

    The order of the domains is drawn; each domain owns ``slots`` items. The first few lend. Each
    of the others draws a lender and one of ``numbers``, and fills that many slots with the
    lender's items: each at most once, or as drawn with ``repeat``. Borrowers do not lend. If most
    domains used one item, it would receive the probability that unlearning their refusals
    releases.
    """
    order = [int(d) for d in generator.permutation(len(DOMAINS))]
    if first is not None:
        order.remove(first)
        order.insert(0, first)
    held = np.arange(len(DOMAINS) * slots).reshape(len(DOMAINS), slots)
    for domain in order[LENDERS:]:
        lender = generator.choice(order[:LENDERS])
        number = generator.choice(numbers)
        lent = generator.choice(held[lender], size=number, replace=repeat)
        held[domain, generator.permutation(slots)[:number]] = lent
    return held


def _coverage(held: list[tuple[str, ...]]) -> Float[np.ndarray, "source target"]:
    return np.array(
        [[np.mean([item in source for item in target]) for target in held] for source in held]
    )


def _draw(
    generator: np.random.Generator, pool: list[Composition], number: int
) -> list[tuple[Composition, int]]:
    """``number`` different prompts of a pool, each a composition and its template."""
    chosen = generator.permutation(len(pool) * len(TEMPLATES))[:number]
    return [(pool[n // len(TEMPLATES)], int(n % len(TEMPLATES))) for n in chosen]


def _matched_benign(
    harmful: Composition, kept: str, pools: dict[tuple[str, str], list[Composition]]
) -> list[Composition]:
    pool = pools[harmful.domain, kept]
    return [c for c in pool if getattr(c, kept) == getattr(harmful, kept)]


def _row(name: str, c: Composition, template: int, split: str, pair: str | None) -> dict:
    kinds = {"harmful": None, "intent": "twin", "object": "twin", "general": "general"}
    return {
        "id": name,
        "prompt": TEMPLATES[template].format(intent=c.intent, object=c.object),
        "domain": c.domain,
        "label": "harmful" if c.role == "harmful" else "benign",
        "source": "organism",
        "split": split,
        "kind": kinds[c.role],
        "pair": pair,
        "intent": c.intent,
        "object": c.object,
        "template": template,
    }
