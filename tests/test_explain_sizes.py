"""What ``explain`` computes by default, and the layers that it adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyses.explain.figures import _apart
from analyses.explain.mediation import evenly, refine
from analyses.explain.sizes import LARGE, Sizes, default_sizes
from analyses.explain.work import DomainWork
from interp.causes import Undone, entry_layer
from tests.test_causes import worths


def test_a_small_model_is_examined_as_a_whole() -> None:
    found = default_sizes(LARGE, 12)
    assert found.layers == tuple(range(12)) and found.read is None and found.every_cause
    assert (found.refined, found.draws, found.place_draws) == (False, 100, 20)


@pytest.mark.parametrize("n_layers", [6, 24, 30, 80])
def test_a_large_model_is_examined_in_part_and_the_plan_says_so(n_layers: int) -> None:
    found = default_sizes(LARGE + 1, n_layers)
    assert len(found.layers) == 5 and found.layers[-1] == n_layers - 1 and found.refined
    said = " ".join(found.lines(n_layers))
    assert f"of {n_layers}, then between two of them" in said and "up to 16" in said
    assert "the leading cause" in said and "no null" in said


def test_what_is_asked_for_replaces_the_default() -> None:
    found = default_sizes(LARGE + 1, 30, layers=range(30), read=0, draws=60, place_draws=20)
    assert len(found.layers) == 30 and not found.refined and found.read is None
    assert found.draws == 60 and found.every_cause and found.place_draws == 20


@pytest.mark.parametrize("entry", range(30))
def test_the_layer_at_which_the_loss_enters_is_found_by_bisection(entry: int) -> None:
    sizes = default_sizes(LARGE + 1, 30)

    def at_layers(layers: object) -> list[Undone]:
        return [
            Undone(i, worths({"gain": 3.0} if i >= entry else {"routing": 3.0}))
            for i in layers  # type: ignore[attr-defined]
        ]

    found = refine(at_layers(sizes.layers), range(30), at_layers)
    assert entry_layer(found).layer == entry
    assert len(found) <= sizes.examined


def test_a_loss_that_never_enters_the_states_adds_no_layer() -> None:
    routed = [Undone(i, worths({"routing": 3.0})) for i in (9, 19, 29)]
    assert [one.layer for one in refine(routed, range(30), lambda _: pytest.fail())] == [9, 19, 29]


def test_a_part_of_the_prompts_is_spread_over_all_of_them() -> None:
    assert evenly(48, None) == evenly(48, 60) == list(range(48))
    found = evenly(48, 24)
    assert len(set(found)) == 24 and found[0] == 0 and found[-1] == 47
    assert np.diff(found).max() <= 3


def test_the_plan_grows_with_what_is_asked_for() -> None:
    sizes = Sizes(tuple(range(12)), draws=20, place_draws=0)
    work = DomainWork(24, 20.0, 3, 12, sizes)
    assert replace(work, rows=48).total() == pytest.approx(2 * work.total())
    more = {"draws": replace(sizes, draws=40), "places": replace(sizes, place_draws=20)}
    for other in more.values():
        assert replace(work, sizes=other).total() > work.total()
    alone = replace(work, sizes=replace(sizes, every_cause=False))
    assert alone.total() < alone.total(routing=True) < work.total()


def test_names_of_layers_do_not_touch() -> None:
    assert _apart([5, 11, 12, 13, 14, 17, 23, 29]) == [5, 11, 13, 17, 23, 29]
    assert _apart([0, 1, 2]) == [0, 1, 2] and _apart([4]) == [4]
