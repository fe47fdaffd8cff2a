"""How many different refusals there are among many.

Unlearning pushes down whatever it is given. Where that is one sentence a hundred times, the
steepest way is to break that sentence, and with it every answer that begins like it: the model
collapses into gibberish instead of unlearning what refusing means. These counts see wording, not
meaning: paraphrases in other words count as different.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unlearning.data import near_duplicate_groups, normalised

OPENING_WORDS = 3
# Rules of thumb: an epoch's batch of 32 then holds each wording four times, and no wording is in
# most of the examples.
FEWEST_EFFECTIVE = 8.0
LARGEST_SHARE = 0.5


@dataclass(frozen=True)
class Diversity:
    """Counts over n texts; case, punctuation and white space make no difference.

    Groups are of near-duplicates as :mod:`unlearning.data.splits` has them: Jaccard similarity of
    word bigrams at least 0.5, and the transitive closure of that.

    Attributes:
        texts: n.
        distinct: different texts.
        openings: different first three words.
        effective: effective number of groups, exp(−Σ s log s) over the groups' shares s of the
            texts: 1 where all are alike, n where no two are, g for g groups of the same size.
        largest_share: of the texts, in the largest group.
    """

    texts: int
    distinct: int
    openings: int
    effective: float
    largest_share: float

    @property
    def shortcoming(self) -> str | None:
        """Why these are too much alike to unlearn from, in a few words; ``None`` if they are not.

        They are with less than 8 effective groups or more than half of the texts in one.
        """
        if self.largest_share > LARGEST_SHARE:
            return f"{self.largest_share:.0%} of them are near-duplicates of one another"
        if round(self.effective, 9) < FEWEST_EFFECTIVE:
            return f"they amount to {self.effective:.1f} different ones"
        return None


def diversity(texts: Sequence[str]) -> Diversity:
    """The counts for at least one text.

    Raises:
        ValueError: there are no texts.
    """
    if not texts:
        raise ValueError("no texts; diversity is defined for at least one")
    plain = [normalised(text) for text in texts]
    counts = Counter(plain)
    # Once each, since the search for near-duplicates compares all that are alike with one another.
    groups: Counter[int] = Counter()
    for group, count in zip(near_duplicate_groups(list(counts)), counts.values(), strict=True):
        groups[group] += count
    shares = [size / len(texts) for size in groups.values()]
    return Diversity(
        texts=len(texts),
        distinct=len(counts),
        openings=len({" ".join(text.split()[:OPENING_WORDS]) for text in plain}),
        effective=math.exp(-sum(share * math.log(share) for share in shares)),
        largest_share=max(shares),
    )
