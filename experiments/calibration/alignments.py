"""Settings of whole representations of the same prompts: intervals of CKA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from experiments.calibration.settings import Setting, Tally, covered
from interp.similarity import cka_map

LATENT, WIDTH = 8, 16
#: Name → latent values of prompts, of variance 1.
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "": lambda rng, size: rng.normal(size=size),
    ", skewed": lambda rng, size: rng.exponential(size=size) - 1,
    ", heavy tails": lambda rng, size: rng.standard_t(4, size=size) / np.sqrt(2),
}


@dataclass(frozen=True)
class Prompts:
    """Prompts of two models.

    Attributes:
        n: number of groups of prompts.
        copies: near-duplicates in each group.
        noise: standard deviation of what the models do not share, per axis.
        draw: distribution of what they share.
    """

    n: int
    copies: int = 1
    noise: float = 1.0
    draw: str = ""

    def __str__(self) -> str:
        grouped = f" groups of {self.copies}" if self.copies > 1 else " prompts"
        return f"{self.n}{grouped}{self.draw}"

    @property
    def groups(self) -> list[int] | None:
        return None if self.copies == 1 else list(np.repeat(np.arange(self.n), self.copies))

    def shared(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """States of two models that see the same latent values through different maps."""
        latent = DRAWS[self.draw](rng, (self.n, LATENT))
        own = self.noise * rng.normal(size=(2, self.n, WIDTH))
        first, second = (latent @ a + x for a, x in zip(_maps(), own, strict=True))
        return self._repeated(first, rng), self._repeated(second, rng)

    def _repeated(self, states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The states of near-duplicates, (row, layer, width)."""
        if self.copies == 1:
            return states[:, None]
        rows = np.repeat(states, self.copies, axis=0)
        return np.asarray(rows + 0.1 * rng.normal(size=rows.shape))[:, None]


@lru_cache
def _maps() -> np.ndarray:
    maps = np.random.default_rng(1).normal(size=(2, LATENT, WIDTH))
    maps[1] *= np.linspace(0.3, 2, LATENT)[:, None]
    return maps


def _true_cka(prompts: Prompts) -> float:
    """CKA of the covariances; the noise of copies is averaged within their group."""
    noise = prompts.noise**2 + (0.01 / prompts.copies if prompts.copies > 1 else 0.0)
    a, b = _maps()
    own = [np.linalg.norm(m.T @ m + noise * np.eye(WIDTH)) for m in (a, b)]
    return float(np.linalg.norm(a.T @ b) ** 2 / (own[0] * own[1]))


def _interval(prompts: Prompts) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        bounds = []
        for _ in range(replications):
            models = dict(zip("ab", prompts.shared(rng), strict=True))
            found = cka_map(models, groups=prompts.groups, permutations=1)
            bounds.append((found.low[0, 0, 1], found.high[0, 0, 1]))
        return covered(_true_cka(prompts), bounds)

    setting = f"{prompts}, noise {prompts.noise:g}"
    return Setting("CKA", setting, "coverage", run, 400, prompts == Prompts(12, 4))


PROMPTS = (
    *(Prompts(n, draw=draw) for n in (12, 20, 48) for draw in ("", ", skewed")),
    *(Prompts(n, noise=4.0, draw=draw) for n, draw in ((20, ""), (48, ", heavy tails"))),
    *(Prompts(n, copies) for n, copies in ((12, 4), (24, 2))),
)
SETTINGS = tuple(_interval(prompts) for prompts in PROMPTS)
