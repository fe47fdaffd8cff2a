r"""Products of gradients: the effect of a small step on one domain on the others.

At the start NPO has the gradient of S_a, for every β. One small step of NPO lowers m_b by the
learning rate times the objective kernel:

    K_S[a,b] = ⟨P ∇S_a, ∇m_b⟩        the objective kernel
    K_m[a,b] = ⟨P ∇m_a, ∇m_b⟩        the log-odds kernel: no noise of prefixes, no saturation

P is the identity or Adam's diagonal. K[a,b]/K[a,a] has no unit: it is b's loss relative to a's.

Gradients are means over disjoint groups of prompts. Products use different groups, so a domain's
sampling noise does not multiply with itself. The groups also give the standard errors.

Only the gradients of the sources are held. The targets come one after another, and only their
products with the sources are kept, parameter by parameter. A forecast has one source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from analyses.predict.gradients import GROUPS, Gradients
from interp.errors import InputError

ADAM_EPSILON = 1e-8
# K[a,a] must be this many standard errors above 0 to divide by.
TOLD_FROM_ZERO = 2.0

#: Selects parameters by name, for example those of one layer or module.
Within = Callable[[str], bool]


def everything(_name: str) -> bool:
    """Select all parameters."""
    return True


@dataclass(frozen=True)
class Kernel:
    """Products of gradients, a row for each source, a column for each target.

    Attributes:
        values: K[a,b].
        standard_error: jackknife over groups.
        left_out: K without each group in turn, the basis of the standard errors.
    """

    values: Float[np.ndarray, "source target"]
    standard_error: Float[np.ndarray, "source target"]
    left_out: Float[np.ndarray, "group source target"]

    @classmethod
    def from_products(cls, products: Float[np.ndarray, "group group source target"]) -> Kernel:
        """The kernel from the products of every source group with every target group.

        Raises:
            InputError: fewer than three groups, too few for a standard error.
        """
        if len(products) < 3:
            raise InputError(
                f"{len(products)} groups are too few for a standard error; give at least 3"
            )
        return _with_errors(_across(products), _jackknifed(products))

    def with_undefined(
        self, sources: Sequence[bool], targets: Sequence[bool] | None = None
    ) -> Kernel:
        """The kernel with NaN for the sources, and the targets, that are not given (true)."""
        given = [True] * self.values.shape[1] if targets is None else targets
        rows, columns = np.ix_(np.flatnonzero(sources), np.flatnonzero(given))

        def filled(values: np.ndarray) -> np.ndarray:
            found = np.full((*values.shape[:-2], len(sources), len(given)), np.nan)
            found[..., rows, columns] = values
            return found

        return Kernel(filled(self.values), filled(self.standard_error), filled(self.left_out))

    def relative(self) -> Kernel:
        """K[a,b]/K[a,a]; NaN for a source whose K[a,a] does not differ from 0."""
        own = np.diag(self.values)
        told = own > TOLD_FROM_ZERO * np.diag(self.standard_error)

        def divided(k: np.ndarray) -> np.ndarray:
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(told[:, None], k / np.diag(k)[:, None], np.nan)

        return _with_errors(divided(self.values), np.array([divided(k) for k in self.left_out]))


@dataclass(frozen=True)
class GroupProducts:
    """Products of source groups with target groups, for every parameter.

    A source or a target without gradients has NaN.

    Attributes:
        names: of the parameters.
        plain: ⟨∇f_a, ∇g_b⟩.
        adam: ⟨P_a ∇f_a, ∇g_b⟩, where P_a is Adam's diagonal for a's mean square gradient.
        of_sources, of_targets: ⟨∇f_a, ∇f_a⟩ and ⟨∇g_b, ∇g_b⟩.
    """

    names: Sequence[str]
    plain: Float[np.ndarray, "name group group source target"]
    adam: Float[np.ndarray, "name group group source target"]
    of_sources: Float[np.ndarray, "name group group source"]
    of_targets: Float[np.ndarray, "name group group target"]

    def kernel(self, *, adam: bool = False, within: Within = everything) -> Kernel:
        """⟨P ∇f_a, ∇g_b⟩ over the parameters that ``within`` names.

        Raises:
            InputError: fewer than three groups, too few for a standard error.
        """
        return Kernel.from_products(self._over(self.adam if adam else self.plain, within))

    def cosine(self, *, within: Within = everything) -> Float[np.ndarray, "source target"]:
        """The kernel divided by both gradients' lengths, all from products of different groups.

        NaN where an estimated squared length is not above 0.
        """
        between = self.kernel(within=within).values
        a, b = (
            _across(self._over(own, within)).clip(min=0) ** 0.5
            for own in (self.of_sources, self.of_targets)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            found = between / (a[:, None] * b)
        return np.where(np.isfinite(found), found, np.nan)

    def _over(self, products: np.ndarray, within: Within) -> np.ndarray:
        return products[np.array([within(name) for name in self.names], dtype=bool)].sum(axis=0)


class ProductsWith:
    """Accumulates the products of given sources with targets that come one after another.

    Args:
        sources: their gradients, by domain.
        domains: rows and columns of the result. Those without a source, and those never added as
            targets, have NaN.
    """

    def __init__(self, sources: Mapping[str, Gradients], domains: Sequence[str]) -> None:
        self.sources, self.domains = sources, domains
        self._between: dict[str, dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]] = {}
        self._own_of_targets: dict[int, dict[str, np.ndarray]] = {}
        self._own_of_sources = {
            domains.index(domain): _own(gradients) for domain, gradients in sources.items()
        }
        self._diagonals = {
            domain: {name: adam_diagonal(one.flatten(1)) for name, one in gradients.of.items()}
            for domain, gradients in sources.items()
        }

    def add(self, domain: str, target: Gradients) -> None:
        """Add the products of all sources with one target, whose gradients are not kept."""
        column = self.domains.index(domain)
        self._own_of_targets[column] = _own(target)
        for name, gradient in target.of.items():
            right = gradient.flatten(1)
            for source, gradients in self.sources.items():
                if name in gradients.of:
                    left = gradients.of[name].flatten(1)
                    scaled = left * self._diagonals[source][name]
                    cell = self.domains.index(source), column
                    self._between.setdefault(name, {})[cell] = (
                        _products(left, right), _products(scaled, right),
                    )  # fmt: skip

    def products(self) -> GroupProducts:
        """The products with all targets so far."""
        rows, columns = self._own_of_sources, self._own_of_targets
        names = sorted({name for own in (*rows.values(), *columns.values()) for name in own})
        owns = (product for own in (*rows.values(), *columns.values()) for product in own.values())
        n, groups = len(self.domains), len(next(owns, np.zeros((GROUPS, GROUPS))))
        plain, adam = np.full((2, len(names), groups, groups, n, n), np.nan)
        own = np.full((2, len(names), groups, groups, n), np.nan)
        for i, name in enumerate(names):
            cells = self._between.get(name, {})
            nothing = np.zeros((groups, groups))  # a parameter without gradients on one side
            for row in rows:
                for column in columns:
                    pair = cells.get((row, column), (nothing, nothing))
                    plain[i, :, :, row, column], adam[i, :, :, row, column] = pair
            for side, given in enumerate((rows, columns)):
                for number, of_name in given.items():
                    own[side, i, :, :, number] = of_name.get(name, nothing)
        return GroupProducts(names, plain, adam, *own)


def products_of(
    sources: Mapping[str, Gradients], targets: Mapping[str, Gradients]
) -> GroupProducts:
    """Products of gradients of f and of g of the same domains, in the same groups."""
    found = ProductsWith(sources, list(targets))
    for domain, gradients in targets.items():
        found.add(domain, gradients)
    return found.products()


def adam_diagonal(gradient: Float[Tensor, " group *shape"]) -> Float[Tensor, " *shape"]:
    """Adam's diagonal P for the mean square gradient over groups."""
    return 1 / ((gradient**2).mean(dim=0).sqrt() + ADAM_EPSILON)


def _own(gradients: Gradients) -> dict[str, Float[np.ndarray, "group group"]]:
    flat = {name: gradient.flatten(1) for name, gradient in gradients.of.items()}
    return {name: _products(one, one) for name, one in flat.items()}


def _products(
    left: Float[Tensor, "group weight"], right: Float[Tensor, "group weight"]
) -> Float[np.ndarray, "group group"]:
    return (left @ right.T).double().numpy()


def _across(products: Float[np.ndarray, "group group *cell"]) -> Float[np.ndarray, "*cell"]:
    """Mean over pairs of different groups."""
    n = len(products)
    own = np.einsum("gg...->...", products)
    return (products.sum(axis=(0, 1)) - own) / (n * (n - 1))


def _jackknifed(products: np.ndarray) -> np.ndarray:
    n = len(products)
    kept = [[g for g in range(n) if g != without] for without in range(n)]
    return np.array([_across(products[np.ix_(rest, rest)]) for rest in kept])


def _with_errors(values: np.ndarray, left_out: np.ndarray) -> Kernel:
    n = len(left_out)
    spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return Kernel(values, np.sqrt((n - 1) / n * spread), left_out)
