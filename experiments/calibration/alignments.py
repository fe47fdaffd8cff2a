"""Settings of whole representations of the same prompts: CKA and held-out Procrustes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from experiments.calibration.settings import Setting, Tally, covered, rejected
from interp.similarity import SimilarityMap, cka_map, procrustes_map

LATENT, WIDTH = 8, 16
PERMUTATIONS = 101  # five of as many equally likely p-values are below .05
Compare = Callable[..., SimilarityMap]
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

    def rotated(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """States before and after a rotation, with noise."""
        before = DRAWS[self.draw](rng, (self.n, WIDTH)) / np.arange(1, WIDTH + 1)
        after = before @ _rotation() + self.noise * rng.normal(size=before.shape) / WIDTH
        return self._repeated(before, rng), self._repeated(after, rng)

    def unrelated(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """States that have nothing in common."""
        first, second = (DRAWS[self.draw](rng, (self.n, WIDTH)) for _ in range(2))
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


@lru_cache
def _rotation() -> np.ndarray:
    from scipy.linalg import expm

    skew = np.triu(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)), 1)
    skew -= skew.T
    return np.asarray(expm(skew / np.linalg.norm(skew, 2)))


def _true_cka(prompts: Prompts) -> float:
    """CKA of the covariances; the noise of copies is averaged within their group."""
    noise = prompts.noise**2 + (0.01 / prompts.copies if prompts.copies > 1 else 0.0)
    a, b = _maps()
    own = [np.linalg.norm(m.T @ m + noise * np.eye(WIDTH)) for m in (a, b)]
    return float(np.linalg.norm(a.T @ b) ** 2 / (own[0] * own[1]))


@lru_cache
def _expected_share(prompts: Prompts) -> float:
    """The mean share that a rotation explains in samples of this size."""
    rng = np.random.default_rng(1)
    values = [
        procrustes_map(_models(prompts.rotated(rng)), draws=1, groups=prompts.groups).value
        for _ in range(200)
    ]
    return float(np.mean(values, axis=0)[0, 0, 1])


def _models(states: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip("ab", states, strict=True))


def _interval(name: str, prompts: Prompts, truth: Callable[[Prompts], float]) -> Setting:
    draw = prompts.shared if name == "CKA" else prompts.rotated
    compare = (
        partial(cka_map, permutations=1) if name == "CKA" else partial(procrustes_map, draws=1)
    )

    def run(rng: np.random.Generator, replications: int) -> Tally:
        bounds = []
        for _ in range(replications):
            found = compare(_models(draw(rng)), groups=prompts.groups)
            bounds.append((found.low[0, 0, 1], found.high[0, 0, 1]))
        return covered(truth(prompts), bounds)

    setting = f"{prompts}, noise {prompts.noise:g}"
    quick = name == "CKA" and prompts == Prompts(12, 4)
    replications = 400 if name == "CKA" else 150  # many fits each
    return Setting(name, setting, "coverage", run, replications, quick)


def _unrelated(name: str, compare: Compare, prompts: Prompts) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = [
            compare(_models(prompts.unrelated(rng)), groups=prompts.groups, seed=seed)
            for seed in range(replications)
        ]
        return rejected(float(one.p[0, 0, 1]) for one in found)

    return Setting(f"{name}: unrelated models", str(prompts), "error", run, 400)


CKA_PROMPTS = (
    *(Prompts(n, draw=draw) for n in (12, 20, 48) for draw in ("", ", skewed")),
    *(Prompts(n, noise=4.0, draw=draw) for n, draw in ((20, ""), (48, ", heavy tails"))),
    *(Prompts(n, copies) for n, copies in ((12, 4), (24, 2))),
)
PROCRUSTES_PROMPTS = (
    *(Prompts(20, noise=0.5, draw=draw) for draw in ("", ", skewed")),
    Prompts(16, 4),
)
SETTINGS = (
    *(_interval("CKA", prompts, _true_cka) for prompts in CKA_PROMPTS),
    *(_interval("Procrustes", prompts, _expected_share) for prompts in PROCRUSTES_PROMPTS),
    *(
        _unrelated("CKA", partial(cka_map, permutations=PERMUTATIONS), prompts)
        for prompts in (Prompts(12), Prompts(12, draw=", skewed"), Prompts(48), Prompts(12, 4))
    ),
    *(
        _unrelated("Procrustes", partial(procrustes_map, draws=PERMUTATIONS), prompts)
        for prompts in (Prompts(16), Prompts(16, draw=", skewed"), Prompts(16, 4))
    ),
)
