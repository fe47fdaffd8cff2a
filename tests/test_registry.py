"""Registering a loss is one line; what holds of every registered loss holds of each."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from interp.errors import InputError
from interp.registry import About
from unlearning.losses import FORGET, RETAIN, Objective, objectives, retain, sequence_log_ratio
from unlearning.losses.objectives import npo
from unlearning.losses.registry import QUANTITIES, objective, retain_term

EVERY = [
    pytest.param(one, id=name)
    for name, one in {**FORGET, **RETAIN}.items()
    if one.loss.__module__.startswith("unlearning.losses.")
]
ROWS, TOKENS, PREFERRED_TOKENS, VOCAB, D_MODEL = 4, 6, 5, 7, 8


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """What a test registers is gone after it."""
    parts = ("_entries", "_abouts", "_origins")
    before = [
        (getattr(table, part), dict(getattr(table, part)))
        for table in (FORGET, RETAIN)
        for part in parts
    ]
    yield
    for held, known in before:
        held.clear()
        held.update(known)


def drawn_view(seed: int) -> dict[str, Tensor]:
    """Every quantity in float64; responses stand right, of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def right_aligned(tokens: int) -> Tensor:
        lengths = torch.randint(1, tokens + 1, (ROWS, 1), generator=generator)
        return torch.arange(tokens) >= tokens - lengths

    control = normal(D_MODEL)
    view = {
        "mask": right_aligned(TOKENS),
        "preferred_mask": right_aligned(PREFERRED_TOKENS),
        "logits": normal(ROWS, TOKENS, VOCAB),
        "reference_logits": normal(ROWS, TOKENS, VOCAB),
        "states": normal(ROWS, TOKENS, D_MODEL),
        "reference_states": normal(ROWS, TOKENS, D_MODEL),
        "control": control / control.norm(),
    }
    for name in ("log_probs", "reference"):
        view[name] = -normal(ROWS, TOKENS).abs()
        view[f"preferred_{name}"] = -normal(ROWS, PREFERRED_TOKENS).abs()
    return view


def inside(name: str, view: dict[str, Tensor]) -> Tensor:
    """Where a quantity belongs to a response, in its own shape."""
    mask = view["preferred_mask" if name.startswith("preferred") else "mask"]
    return mask.reshape(mask.shape + (1,) * (view[name].ndim - 2)).expand(view[name].shape)


def per_position(one: Objective) -> list[str]:
    """The needs that have a value at every position."""
    return [name for name in one.needs if name != "control" and "mask" not in name]


def trained(one: Objective) -> list[str]:
    """The needs that depend on the weights, so that a gradient is taken by them."""
    return [name for name in per_position(one) if "reference" not in name]


# What holds of every loss


def test_the_drawn_view_has_every_quantity() -> None:
    assert drawn_view(0).keys() == QUANTITIES.keys()


@pytest.mark.parametrize("one", EVERY)
def test_a_loss_is_one_finite_number_per_example(one: Objective) -> None:
    values = one(drawn_view(0))
    assert values.shape == (ROWS,)
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("one", EVERY)
@pytest.mark.parametrize("garbage", [7.0, -1e30, float("inf"), float("-inf"), float("nan")])
def test_what_stands_outside_the_mask_changes_neither_loss_nor_gradient(
    one: Objective, garbage: float
) -> None:
    clean = drawn_view(1)
    dirty = dict(clean)
    for name in per_position(one):
        dirty[name] = torch.where(inside(name, clean), clean[name], garbage)
    gradients = []
    for view in (clean, dirty):
        leaves = {name: view[name].clone().requires_grad_() for name in trained(one)}
        loss = one(view | leaves)
        torch.testing.assert_close(loss, one(clean), atol=0, rtol=0)
        gradients.append(torch.autograd.grad(loss.sum(), list(leaves.values())))
    for name, found, wanted in zip(trained(one), *gradients, strict=True):
        assert torch.equal(found, wanted), name
        assert (found[~inside(name, clean)] == 0).all()
        assert (found[inside(name, clean)] != 0).any()


@pytest.mark.parametrize("one", EVERY)
def test_padding_on_the_left_changes_nothing(one: Objective) -> None:
    view = drawn_view(2)
    padded = dict(view)
    for name in one.needs:
        if name != "control":
            values = view[name]
            padding = torch.full((ROWS, 3, *values.shape[2:]), 9).to(values.dtype)
            padded[name] = torch.cat([padding & False if "mask" in name else padding, values], 1)
    torch.testing.assert_close(one(padded), one(view))


@pytest.mark.parametrize("one", EVERY)
def test_an_example_s_loss_is_its_own(one: Objective) -> None:
    view = drawn_view(3)
    alone = [
        one({name: values if name == "control" else values[[i]] for name, values in view.items()})
        for i in range(ROWS)
    ]
    torch.testing.assert_close(one(view), torch.cat(alone))


@pytest.mark.parametrize("one", EVERY)
def test_gradients_are_those_of_finite_differences(one: Objective) -> None:
    view = drawn_view(4)

    def loss(*leaves: Tensor) -> Tensor:
        return one(view | dict(zip(trained(one), leaves, strict=True)))

    assert torch.autograd.gradcheck(loss, [view[name].requires_grad_() for name in trained(one)])


@pytest.mark.parametrize("one", EVERY)
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_losses_are_in_float32_at_least(
    one: Objective, given: torch.dtype, wanted: torch.dtype
) -> None:
    view = {
        name: values.to(given) if values.is_floating_point() else values
        for name, values in drawn_view(5).items()
    }
    assert one(view).dtype == wanted
    exact = {n: v.double() if v.is_floating_point() else v for n, v in view.items()}
    torch.testing.assert_close(one(view), one(exact).to(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("one", EVERY)
def test_an_example_without_a_response_adds_no_gradient(one: Objective) -> None:
    view = drawn_view(6)
    for mask in ("mask", "preferred_mask"):
        view[mask][0] = False
    leaves = {name: view[name].requires_grad_() for name in trained(one)}
    loss = one(view)
    assert torch.isfinite(loss).all()
    for found in torch.autograd.grad(loss.sum(), list(leaves.values())):
        assert (found[0] == 0).all()


# The registry


def test_the_built_in_losses() -> None:
    forget = {"gradient_ascent", "grad_diff", "npo", "sim_npo", "dpo", "idk_dpo", "rmu"}
    assert FORGET.keys() >= forget | {"fine_tuning"}
    assert RETAIN.keys() >= {"cross_entropy", "token_mean_cross_entropy", "kl", "feature_l2"}
    assert FORGET["npo"].needs == ("log_probs", "reference", "mask")
    assert FORGET["npo"].options == {"beta": 0.1}
    assert FORGET["npo"].loss is objectives.npo
    assert RETAIN["kl"].loss is retain.kl


def test_a_loss_is_found_although_nothing_imported_it() -> None:
    program = """
import sys
from unlearning.losses.registry import FORGET, RETAIN
assert "npo" in FORGET and "unlearning.losses.objectives" not in sys.modules
print(RETAIN.find("kl").needs, FORGET.find("rmu").options)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.strip() == "('logits', 'reference_logits', 'mask') {'steering': 6.5}"


def test_an_unknown_loss_is_told_the_known_ones() -> None:
    with pytest.raises(InputError, match="'nop'.*gradient_ascent.*npo.*rmu"):
        FORGET.find("nop")
    with pytest.raises(InputError, match="cross_entropy.*kl"):
        RETAIN.find("npo")


def test_the_common_case_is_one_line_in_a_notebook() -> None:
    @objective
    def hinge(log_probs, reference, mask, *, margin=1.0):  # type: ignore[no-untyped-def]
        return (margin + sequence_log_ratio(log_probs, reference, mask)).relu()

    one, view = FORGET.find("hinge"), drawn_view(0)
    assert one == Objective(
        About("hinge"), hinge, ("log_probs", "reference", "mask"), {"margin": 1.0}
    )
    # It is still the plain function.
    assert isinstance(hinge, types.FunctionType)
    same = hinge(view["log_probs"], view["reference"], view["mask"], margin=2.0)
    assert torch.equal(one(view, margin=2.0), same)
    assert not torch.equal(one(view), same)


def test_needs_are_passed_in_the_order_of_the_parameters() -> None:
    @objective
    def backwards(mask: Tensor, reference: Tensor, log_probs: Tensor) -> Tensor:
        return npo(log_probs, reference, mask)

    view = drawn_view(0)
    assert torch.equal(FORGET["backwards"](view), FORGET["npo"](view))


def test_a_retain_term_registers_apart_from_the_objectives() -> None:
    @retain_term
    def stays(log_probs: Tensor, mask: Tensor) -> Tensor:
        return objectives.sequence_log_prob(log_probs, mask).square()

    assert RETAIN.find("stays").loss is stays
    assert "stays" not in FORGET


def cell(source: str, module: str = "__main__") -> Callable[..., Tensor]:
    """A function as a notebook cell defines it."""
    names: dict[str, Callable[..., Tensor]] = {}
    exec(source, {"__name__": module, "objective": objective}, names)
    return names.popitem()[1]


MINE = "@objective\ndef mine(log_probs, mask): return -(log_probs * mask).sum(-1)"


def test_a_cell_run_again_replaces_its_loss() -> None:
    first, second = cell(MINE), cell(MINE.replace("-(", "2 * ("))
    assert first is not second
    assert FORGET.find("mine").loss is second


def test_another_function_does_not_take_a_name() -> None:
    cell(MINE)
    with pytest.raises(InputError, match="mine is taken by __main__.mine"):
        cell(MINE, module="elsewhere")
    with pytest.raises(InputError, match="npo is taken by unlearning.losses.objectives"):
        cell(MINE.replace("mine", "npo"))
    assert FORGET.find("npo").loss is npo


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def a(log_probs, labels): ...", "a: labels is not a quantity.*log_probs.*preferred_mask"),
        ("def a(log_probs, mask, beta=0.1): ...", "beta is not a quantity.*after a \\*"),
        ("def a(log_probs, **options): ...", "options is not a quantity"),
        ("def a(log_probs, *, beta): ...", "beta needs a number as default"),
        ("def a(log_probs, *, kind='sum'): ...", "kind needs a number as default"),
        ("def a(control): ...", "uses no quantity of a batch"),
        ("def a(): ...", "uses no quantity of a batch"),
    ],
)
def test_a_loss_that_cannot_be_supplied_is_refused_at_once(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cell(f"@objective\n{source}")
    assert "a" not in FORGET


def test_a_nameless_loss_is_refused() -> None:
    with pytest.raises(InputError, match="use def"):
        objective(lambda log_probs, mask: (log_probs * mask).sum(-1))


def test_options_override_the_defaults() -> None:
    sim_npo = FORGET.find("sim_npo")
    assert sim_npo.validated({}) == {"beta": 4.5, "delta": 0.0}
    assert sim_npo.validated({"delta": 1}) == {"beta": 4.5, "delta": 1}
    with pytest.raises(InputError, match="sim_npo has no option gamma; expected beta, delta"):
        sim_npo.validated({"beta": 1.0, "gamma": 2.0})
    with pytest.raises(InputError, match="no option beta; expected none"):
        FORGET.find("gradient_ascent").validated({"beta": 1.0})
    with pytest.raises(InputError, match="beta is 'high'; expected a number"):
        sim_npo.validated({"beta": "high"})  # type: ignore[dict-item]
    assert sim_npo.options == {"beta": 4.5, "delta": 0.0}


def test_a_batch_that_lacks_a_quantity_is_named() -> None:
    view = drawn_view(0)
    del view["reference"], view["mask"]
    with pytest.raises(InputError, match="npo needs reference, mask; the batch has"):
        FORGET["npo"](view)


def test_a_loss_that_reduces_over_the_batch_is_refused() -> None:
    @objective
    def averaged(log_probs: Tensor, mask: Tensor) -> Tensor:
        return (log_probs * mask).mean()

    with pytest.raises(InputError, match="averaged returned shape \\(\\); expected.*\\(4,\\)"):
        FORGET.find("averaged")(drawn_view(0))
