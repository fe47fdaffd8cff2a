"""Edits are their equations, in every precision, and change nothing in place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from interp.errors import InputError
from interp.interventions import edits
from tests.patched_models import WIDTH, random_direction


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_edit_is_its_equation(dtype: torch.dtype) -> None:
    states, direction = random_direction(1, 3, 5, WIDTH).to(dtype), random_direction()
    unit = (direction / direction.norm()).double()
    tolerance = {"atol": 4 * torch.finfo(dtype).eps * 8, "rtol": 8 * torch.finfo(dtype).eps}
    if dtype is torch.float64:
        tolerance = {"atol": 1e-6, "rtol": 1e-6}  # the direction itself came in float32

    def check(edit: edits.Edit, wanted: Callable[[Tensor], Tensor]) -> None:
        before = states.clone()
        found = edit(states)
        assert found.dtype == dtype and torch.equal(states, before)
        torch.testing.assert_close(found.double(), wanted(states.double()), **tolerance)

    def with_component(along: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda h: h - (h @ unit)[..., None] * unit + along(h @ unit)[..., None] * unit

    check(edits.ablating(direction), with_component(torch.zeros_like))
    check(edits.adding(direction, -2), lambda h: h - 2 * direction.double())
    check(edits.setting(direction, 1.5), with_component(lambda s: torch.full_like(s, 1.5)))
    basis = torch.linalg.qr(random_direction(2, 3, WIDTH).double().T)[0]
    mixed = torch.randn(4, 3, generator=torch.Generator().manual_seed(3)).double() @ basis.T
    check(edits.projecting_out(mixed.numpy()), lambda h: h - h @ basis @ basis.T)


def test_ablation_is_idempotent_and_leaves_what_is_perpendicular() -> None:
    states, edit = random_direction(1, 7, WIDTH).double(), edits.ablating(random_direction())
    once = edit(states)
    torch.testing.assert_close(edit(once), once, atol=1e-12, rtol=0)
    unit = random_direction() / random_direction().norm()
    torch.testing.assert_close(once @ unit.double(), torch.zeros(7).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(once, edits.ablating(-3 * random_direction())(states))


def test_what_points_nowhere_is_refused() -> None:
    for make in (edits.ablating, edits.projecting_out):
        with pytest.raises(InputError, match="zero"):
            make(torch.zeros(WIDTH))
    with pytest.raises(InputError, match="NaN"):
        edits.adding(torch.full((WIDTH,), torch.nan))
