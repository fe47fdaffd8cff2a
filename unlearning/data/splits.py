"""Assign train, validation and test splits without near-duplicates in different splits.

A hash of its group of near-duplicates decides a prompt's split, so the split depends neither on
the order of the file nor on unrelated rows. Two prompts are near-duplicates if the Jaccard
similarity of their word bigrams is at least ``SIMILARITY``. Groups are the transitive closure of
near-duplicates and of explicit links (a harmful prompt and its matched benign prompt).

Limits: paraphrases in other words are not found, and prompts that share one long template are all
near-duplicates of one another.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)
SIMILARITY = 0.5

Shingles = frozenset[tuple[str, str]]


def text_hash(*parts: str) -> str:
    """64 bits of SHA-256 over ``parts``, as 16 hexadecimal digits: equal on every machine."""
    joined = "\x00".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:16]


def normalised(text: str) -> str:
    """Words in lower case with one space between them: no punctuation, no compatibility forms.

    Vowel signs and other marks belong to their word. A text without words is itself.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        kept = re.sub(r"\W", " ", folded)
    else:
        kept = "".join(c if _is_in_words(c) else " " for c in folded)
    return " ".join(kept.split()) or " ".join(folded.split())


@lru_cache(maxsize=4096)
def _is_in_words(character: str) -> bool:
    return bool(re.match(r"\w", character)) or unicodedata.category(character)[0] == "M"


def shingles(text: str) -> Shingles:
    """Pairs of neighbouring words, the edges of the text included (so one word has two pairs)."""
    words = ["", *normalised(text).split(), ""]
    return frozenset(pairwise(words))


def near_duplicate_groups(
    texts: Sequence[str], links: Sequence[Hashable | None] | None = None
) -> list[int]:
    """Group number of every text; texts that share a link (not ``None``) share a group.

    The search is exact, not sampled: two texts at Jaccard similarity s share one of their
    ``1 + |x|(1 - s)`` rarest shingles (prefix filtering; Chaudhuri et al. 2006), so only such pairs
    are compared.
    """
    from scipy.cluster.hierarchy import DisjointSet

    sets = [shingles(text) for text in texts]
    groups: DisjointSet[int] = DisjointSet(range(len(texts)))
    first: dict[Hashable, int] = {}
    for i, link in enumerate(links or []):
        if link is not None:
            groups.merge(i, first.setdefault(link, i))
    for i, j in _sharing_a_rare_shingle(sets):
        # Compute the intersection only for pairs that are not yet in one group.
        if not groups.connected(i, j) and jaccard(sets[i], sets[j]) >= SIMILARITY:
            groups.merge(i, j)
    return [groups[i] for i in range(len(texts))]


def assign_splits(
    texts: Sequence[str],
    given: Sequence[str | None],
    links: Sequence[Hashable | None] | None = None,
) -> list[str]:
    """A split for every text: the given one, else its group's.

    A group takes the given split of its members. If given splits differ, the first in the order
    train, validation, test applies, so no training prompt is tested on. Without a given split, a
    hash of the group decides: 60% train, 20% validation, 20% test in expectation.
    """
    if all(given):
        return [split for split in given if split]
    groups = near_duplicate_groups(texts, links)
    fixed: dict[int, str] = {}
    keys: dict[int, str] = {}
    for group, text, split in zip(groups, texts, given, strict=True):
        if split:
            fixed[group] = min(fixed.get(group, split), split, key=SPLITS.index)
        key = text_hash(normalised(text))
        keys[group] = min(keys.get(group, key), key)
    return [
        split or fixed.get(group) or split_of(keys[group])
        for group, split in zip(groups, given, strict=True)
    ]


def split_of(key: str) -> str:
    """The split that a group with this hash belongs to."""
    position = int(text_hash("split", key), 16) / 2**64
    train, validation, _ = SHARES
    if position < train:
        return "train"
    return "validation" if position < train + validation else "test"


def jaccard(a: Shingles, b: Shingles) -> float:
    """Jaccard similarity: the share of the shingles of two texts that occur in both."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _sharing_a_rare_shingle(sets: Sequence[Shingles]) -> Iterator[tuple[int, int]]:
    frequency = Counter(shingle for shingle_set in sets for shingle in shingle_set)
    holders: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, shingle_set in enumerate(sets):
        rarest_first = sorted(shingle_set, key=lambda shingle: (frequency[shingle], shingle))
        # The small slack keeps a product like 0.6 * 5 from being rounded up to 4.
        needed = math.ceil(SIMILARITY * len(shingle_set) - 1e-9)
        for shingle in rarest_first[: len(shingle_set) - needed + 1]:
            yield from ((i, j) for j in holders[shingle])
            holders[shingle].append(i)
