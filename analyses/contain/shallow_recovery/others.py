"""The other domains' prompts, with the same resamples for every model.

Differences between two models are differences of the same resamples, so they are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from analyses.runs import unit_of
from interp.errors import InputError
from interp.model import LanguageModel
from interp.statistics import (
    FEWEST_UNITS,
    Draws,
    pooled_freedom,
    resampling_weights,
    weighted_means,
)
from unlearning.refusal import ResponsePrefixes, prefix_masses
from unlearning.scoring import Scorer

ALL = "all"
"""All other domains together."""
FEWEST_PROMPTS = 8  # with fewer, a share has no useful interval


@dataclass(frozen=True)
class Others:
    """Harmful test prompts of every domain but the target, in a fixed order.

    Attributes:
        table: columns ``id, prompt, domain, unit``; prompts of one unit are near-duplicates.
        weights: number of draws of each prompt in each resample; domains are resampled separately,
            and one with a single unit is in every resample.
    """

    table: pd.DataFrame
    weights: Float[np.ndarray, "resample prompt"]

    @classmethod
    def of(
        cls, prompts: pd.DataFrame, concept: str, *, resamples: int = 1000, seed: int = 0
    ) -> Others:
        """From a prompts table; near-duplicates, by ``group`` or the same text, stay together.

        Raises:
            InputError: no other domain has harmful test prompts.
        """
        wanted = (prompts["split"] == "test") & (prompts["label"] == "harmful")
        rows = prompts[wanted & (prompts["domain"] != concept)]
        if rows.empty:
            raise InputError(
                f"no harmful test prompts outside {concept}; the shallow-recovery tests use the "
                "other domains: give their prompts too"
            )
        rows = rows.sort_values("domain", kind="stable", ignore_index=True)
        unit = unit_of(rows)
        weights = [
            resampling_weights(
                pd.factorize(unit[of_domain.index])[0], resamples, seed, f"test/{domain}", fewest=2
            )
            for domain, of_domain in rows.groupby("domain", sort=True)
        ]
        table = rows[["id", "prompt", "domain"]].assign(unit=unit)
        return cls(table, np.nan_to_num(np.concatenate(weights, axis=1), nan=1.0))

    def resamples(
        self, chosen: Bool[np.ndarray, " prompt"]
    ) -> Float[np.ndarray, "resample prompt"]:
        """The weights of these prompts; NaN, and so no interval, where they are too few units."""
        few = self.table.loc[chosen, "unit"].nunique() < FEWEST_UNITS
        weights = self.weights[:, chosen]
        return np.full_like(weights, np.nan) if few else weights

    def __len__(self) -> int:
        return len(self.table)

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.table["domain"].unique())

    def members(self) -> dict[str, Bool[np.ndarray, " prompt"]]:
        """The prompts of each domain, ``all`` first."""
        domains = self.table["domain"].to_numpy()
        return {ALL: np.ones(len(domains), dtype=bool)} | {
            name: domains == name for name in self.domains
        }

    def means(
        self, values: Float[np.ndarray, " prompt"], kept: Bool[np.ndarray, " prompt"] | None = None
    ) -> dict[str, Draws]:
        """Mean over the kept prompts, of each domain and of all; undefined under 8 prompts."""
        return {
            name: self._mean(values, members if kept is None else members & kept)
            for name, members in self.members().items()
        }

    def means_over_repeats(self, values: Float[np.ndarray, "repeat prompt"]) -> dict[str, Draws]:
        """Mean over prompts and repeats (such as triggers); both are resampled."""
        repeats = len(values)
        chosen = resampling_weights(repeats, len(self.weights), 0, "repeats", fewest=2)
        if repeats < 2:
            chosen = np.ones((len(self.weights), 1))
        mixed = weighted_means(values, chosen)  # each resample's own mean over repeats
        found = {}
        for name, members in self.members().items():
            weights = self.resamples(members)
            total = weights.sum(axis=1)
            drawn = np.einsum("rp,rp->r", weights, mixed[:, members]) / total
            of_repeats = mixed[:, members].mean(axis=1)
            variances = [np.var(drawn - of_repeats), np.var(of_repeats)]
            freedom = pooled_freedom(variances, [self.freedom(members), max(repeats - 1, 1)])
            count = int(members.sum())
            found[name] = Draws(float(values[:, members].mean()), drawn, count, freedom=freedom)
        return found

    def freedom(self, chosen: Bool[np.ndarray, " prompt"]) -> int:
        """Degrees of freedom of a mean over these prompts: units minus domains."""
        rows = self.table[chosen]
        units = rows.groupby("domain")["unit"].nunique()
        return int((units - 1).sum())

    def _mean(self, values: np.ndarray, chosen: Bool[np.ndarray, " prompt"]) -> Draws:
        count = int(chosen.sum())
        if count < FEWEST_PROMPTS:
            return Draws.undefined(f"{count} prompts, fewer than {FEWEST_PROMPTS}", count)
        with np.errstate(invalid="ignore"):  # a resample may miss all kept prompts
            drawn = weighted_means(values[chosen], self.resamples(chosen))
        mean = float(values[chosen].mean())
        return Draws(mean, drawn, count, freedom=self.freedom(chosen))


@dataclass(frozen=True)
class Probe:
    """The shared inputs of the tests: prompts, prefixes and scorer.

    Attributes:
        others: the prompts.
        prefixes: of the base.
        scorer: assigns a class to each answer.
        concept: the target.
        max_new_tokens: of an answer, after its prefix.
        batch_size: prompts in one forward.
        seed: for random draws.
    """

    others: Others
    prefixes: ResponsePrefixes
    scorer: Scorer
    concept: str
    max_new_tokens: int = 48
    batch_size: int = 64
    seed: int = 0

    def masses(
        self, lm: LanguageModel, texts: Sequence[str]
    ) -> Mapping[str, Float[np.ndarray, " prompt"]]:
        """First-token masses of a model's answers to the texts: `p_R, p_C, p_O, margin`."""
        rows = [lm.chat.encode(text) for text in texts]
        found = prefix_masses(lm, rows, self.prefixes, batch_size=self.batch_size)
        return found.columns()


def compared_rows(
    quantity: str,
    own: Mapping[str, Draws],
    references: Mapping[str, Mapping[str, Draws]],
    **columns: object,
) -> Iterator[dict[str, object]]:
    """A tidy row per domain, and one per domain and reference for the paired difference from it.

    The columns are ``against`` (None for the level itself), ``columns``, ``quantity, domain,
    value, low, high, n, reason``.
    """
    found = {None: own} | {
        name: {domain: own[domain] - theirs[domain] for domain in own}
        for name, theirs in references.items()
    }
    for against, by_domain in found.items():
        for domain, draws in by_domain.items():
            where = {"against": against, **columns, "quantity": quantity, "domain": domain}
            yield where | vars(draws.estimate())
