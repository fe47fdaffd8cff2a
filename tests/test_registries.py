"""What all registries have in common: read without importing, one name one definition, a colour."""

from __future__ import annotations

import colorsys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.contain.methods import METHODS
from analyses.predict import PREDICTORS
from interp import plugins
from interp.directions import ESTIMATORS
from interp.errors import InputError
from interp.registry import BADGES, About, colours
from unlearning.losses import FORGET, RETAIN
from unlearning.scoring import SCORERS

REGISTRIES = {
    "method": METHODS,
    "predictor": PREDICTORS,
    "estimator": ESTIMATORS,
    "objective": FORGET,
    "retain_term": RETAIN,
    "scorer": SCORERS,
}


@pytest.mark.parametrize("decorator", REGISTRIES)
def test_what_is_read_from_the_source_is_what_is_registered(decorator: str) -> None:
    registry = REGISTRIES[decorator]
    read = dict(registry.abouts)
    assert read and registry.decorator == decorator
    assert {name: registry[name].about for name in read} == read


@pytest.mark.parametrize("decorator", REGISTRIES)
def test_an_entry_of_a_paper_says_how_near_it_is(decorator: str) -> None:
    for about in REGISTRIES[decorator].abouts.values():
        assert bool(about.paper) == bool(about.badge), about
        assert about.badge in ("", *BADGES)
        assert bool(about.differs) == (about.badge in ("simplified", "variant")), about


@pytest.mark.parametrize("decorator", REGISTRIES)
def test_an_unknown_name_is_told_the_known_ones(decorator: str) -> None:
    with pytest.raises(InputError, match="'no such entry'; expected one of ") as error:
        REGISTRIES[decorator].find("no such entry")
    abouts = REGISTRIES[decorator].abouts.values()
    assert all(about.option in str(error.value) for about in abouts)


def test_a_badge_or_a_colour_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match='unknown badge "exact"; expected one of faithful'):
        About("mine", badge="exact")
    with pytest.raises(InputError, match="expected one like #1f77b4"):
        About("mine", colour="red")


@given(st.integers(1, 20), st.integers(0, 5))
def test_every_entry_has_a_colour_of_its_own(without: int, given_one: int) -> None:
    fixed = ["#4c72b0", "#c44e52", "#dd8452", "#55a868", "#8172b3"][:given_one]
    abouts = {f"fixed {i}": About(f"fixed {i}", colour=c) for i, c in enumerate(fixed)}
    abouts |= {f"free {i}": About(f"free {i}") for i in range(without)}
    found = colours(abouts)
    assert list(found) == list(abouts) and len(set(found.values())) == len(found)
    assert all(found[name] == about.colour for name, about in abouts.items() if about.colour)
    hues = [
        colorsys.rgb_to_hls(*(int(found[name][i : i + 2], 16) / 255 for i in (1, 3, 5)))[0]
        for name in abouts
    ]
    nearest = min((min(abs(a - b), 1 - abs(a - b)) for a, b in combinations(hues, 2)), default=1.0)
    # The free hues halve the largest gap each time, so they are never nearer than a third of even.
    assert nearest >= min(1 / (3 * len(hues)), 0.01) - 0.004


def test_two_files_of_one_name_do_not_take_each_other_s_entries(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(
            "from unlearning.losses import objective\n\n"
            "@objective\ndef twice_named(log_probs, mask):\n"
            f"    return {value} * log_probs.sum(-1)\n"
        )
        plugins.use(tmp_path / folder / "mine.py")
    with pytest.raises(InputError, match="the objective name twice_named is taken by"):
        plugins.load_all()
