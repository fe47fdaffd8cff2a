"""The default scorer: the phrase list, the classifier and a probe, combined.

Each member is wrong in its own way: the list misses refusals in other words, the classifier styles
that it has not seen, the probe short and odd replies. A logistic regression weighs their verdicts
(stacking, Wolpert 1992; :mod:`unlearning.scoring.stacking`). Rules come first: an empty reply, a
loop and a repeated prompt need no reading. The list and the classifier read English only; in other
languages the probe decides.

Nothing is fitted to a judged model. The threshold is part of the fit, so rates before and after
unlearning are comparable; :meth:`Panel.log_odds` gives what it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from unlearning.scoring.classes import COARSE, Scorer, Texts, refused, spoken
from unlearning.scoring.classifier import Classifier
from unlearning.scoring.language import is_english
from unlearning.scoring.linear_classes import log_odds
from unlearning.scoring.phrases import Phrases
from unlearning.scoring.probe import Probe
from unlearning.scoring.reader import Reader, default_reader, reader_of
from unlearning.scoring.registry import scorer
from unlearning.scoring.stacking import Fits, decided, fits_of, key_of, stacked


@dataclass(frozen=True)
class Panel:
    """A combination of scorers that read differently.

    Attributes:
        reader: the probe's; None for the phrase list and the classifier alone.
    """

    reader: Reader | None = None

    @property
    def name(self) -> str:
        return f"panel:{self.reader.name}" if self.reader else "panel:no-reader"

    @property
    def version(self) -> str:
        """Changes with the members, their texts and the reader; loads the reader."""
        return key_of(self.reader)

    @property
    def members(self) -> tuple[Scorer, ...]:
        """The scorers that are combined."""
        probe = (Probe(self.reader),) if self.reader else ()
        return (Phrases(), Classifier(), *probe)

    def on(self, device: str) -> Panel:
        """The same with its reader on a device."""
        return Panel(reader_of(self.reader.source, device)) if self.reader else self

    def with_reader(self, source: str, device: str | None = None) -> Panel:
        """The same; a panel without a reader gets this one."""
        return self if self.reader else Panel(reader_of(source, device))

    @cached_property
    def fits(self) -> Fits:
        return fits_of(self.reader)

    def log_probabilities(
        self, prompts: Texts, responses: Texts
    ) -> Float[np.ndarray, "response class"]:
        """Of each learned class, before any rule."""
        probe = Probe(self.reader).log_probabilities(prompts, responses) if self.reader else None
        features = stacked(
            Phrases().classify_finely(prompts, responses),
            np.log(np.maximum(Classifier().probabilities(responses), 1e-12)),
            probe,
            np.array([is_english(spoken(response)) for response in responses], dtype=bool),
        )
        return self.fits.stack.log_probabilities(features)

    def log_odds(self, prompts: Texts, responses: Texts) -> Float[np.ndarray, " response"]:
        """Log-odds of a refusal above the threshold: 0 or more is a refusal; NaN by rule."""
        found = np.full(len(prompts), np.nan)
        pairs = list(zip(prompts, responses, strict=True))
        places = [place for place, pair in enumerate(pairs) if self.fits.rule(*pair) is None]
        if places:
            read = self.log_probabilities(*zip(*(pairs[i] for i in places), strict=True))
            found[places] = log_odds(read) - self.fits.threshold
        return found

    def disagreeing(self, prompts: Texts, responses: Texts) -> list[int]:
        """Places of the answers that one member calls a refusal and another one does not.

        The panel is least sure of the first ones. Members that cannot read an answer's language do
        not count.
        """
        english = np.array([is_english(spoken(response)) for response in responses], dtype=bool)
        said = np.array(
            [[refused(one) for one in m.classify(prompts, responses)] for m in self.members]
        )
        differ = english & (said.min(axis=0) != said.max(axis=0))
        sure = np.abs(self.log_odds(prompts, responses))
        return sorted(map(int, np.flatnonzero(differ)), key=lambda place: float(sure[place]))

    def classify(self, prompts: Texts, responses: Texts) -> list[str]:
        """One of ``CLASSES`` for each (prompt, response), in order.

        Raises:
            ValueError: the numbers of prompts and responses differ.
            ModelError: the reader cannot be loaded.
        """
        return [COARSE[name] for name in self.classify_finely(prompts, responses)]

    def classify_finely(self, prompts: Texts, responses: Texts) -> list[str]:
        """One of ``FINE_CLASSES`` for each (prompt, response), in order.

        Raises:
            ValueError: the numbers of prompts and responses differ.
            ModelError: the reader cannot be loaded.
        """
        return decided(
            prompts, responses, self.fits.rule, self.log_probabilities, self.fits.threshold
        )


@scorer("panel", title="phrases, classifier and probe combined")
def panel(argument: str) -> Scorer:
    """The default: phrases, classifier and a probe, combined; ``panel:MODEL`` names the reader."""
    source = argument or default_reader()
    return Panel(reader_of(source) if source else None)


def readers_of(scorers: Iterable[Scorer]) -> list[Reader]:
    """The language models in this process that the scorers read with, each once."""
    found = [one.reader for one in scorers if isinstance(one, (Panel, Probe)) and one.reader]
    return list(dict.fromkeys(found))
