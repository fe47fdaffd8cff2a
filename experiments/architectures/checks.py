"""What Spillover does with one model, compared with the plainest computation of the same.

The plain side runs one prompt at a time, without padding and cache, with hooks of torch that are
written here. Each check returns its largest relative error, or what was found; a check that
Spillover refuses in words raises a :class:`interp.errors.SpilloverError`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analyses.predict.gradients import mean_gradients
from analyses.predict.products import products_of
from analyses.predict.streamed import streamed_kernel
from analyses.predict.traces import Side
from interp.activations import HEADS, Site, blocks, collect, last_prompt_token, points
from interp.interventions import ablate, add, orthogonalise
from interp.model import (
    LanguageModel,
    copied,
    hidden_into,
    hidden_of,
    in_fitting_batches,
    with_hidden,
)
from interp.patching import WHOLE, between_models, patch
from interp.readout import log_odds
from unlearning.generation import generate
from unlearning.refusal import ResponsePrefix, ResponsePrefixes, prefix_masses
from unlearning.training import (
    TrainingSettings,
    adapter_inputs,
    coverage_of,
    prepare_in_place,
    save_with_logits,
)
from unlearning.training.eval_mode import probe_logits, relative_error

LORA = TrainingSettings(lora_rank=2, lora_alpha=2)
FULL = TrainingSettings(trained="projections")
TOKEN, NEW_TOKENS, LAYER = 5, 4, 1
TREE = ResponsePrefixes(refusal=((5,), (6, 7, 8)), compliance=((9,), (6, 7, 5), (6, 9)))
#: Errors above this are more than rounding in float32.
LIMIT = 2e-3
NOT_OFFERED = "not offered"


@dataclass(frozen=True)
class Subject:
    """A checkpoint in a folder, prompts of different lengths, and what others begin with."""

    folder: Path
    prompts: tuple[str, ...]
    beginning: str

    @cached_property
    def lm(self) -> LanguageModel:
        return LanguageModel.load(self.folder)

    def fresh(self) -> LanguageModel:
        """A copy that may be changed; what was found out about the model comes with it."""
        again = replace(self.lm, model=copied(self.lm.model))
        again.found_out["checked"] = self.lm.checked
        return again

    @cached_property
    def rows(self) -> list[Tensor]:
        return self._rows(self.prompts)

    @property
    def begun(self) -> tuple[str, ...]:
        return tuple(f"{self.beginning} {prompt}" for prompt in self.prompts)

    @cached_property
    def begun_rows(self) -> list[Tensor]:
        return self._rows(self.begun)

    def _rows(self, prompts: Sequence[str]) -> list[Tensor]:
        return [torch.tensor([self.lm.chat.encode(prompt).ids]) for prompt in prompts]

    @property
    def direction(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.lm.d_model, generator=generator)


Check = Callable[[Subject], float | str]
CHECKS: dict[str, Check] = {}


def check(title: str) -> Callable[[Check], Check]:
    """Register a check under its column's title."""

    def register(function: Check) -> Check:
        CHECKS[title] = function
        return function

    return register


def _logits(lm: LanguageModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = lm.model(input_ids=ids, use_cache=False).logits[0, -1]
    return logits


@contextmanager
def _edited(module: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return with_hidden(output, edit(hidden_of(output)))

    with module.register_forward_hook(after):
        yield


def _error(found: Any, wanted: Any) -> float:
    found, wanted = np.asarray(found), np.asarray(wanted)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@check("states")
def states(subject: Subject) -> float:
    """States of a padded batch are those of each prompt alone."""
    lm = subject.lm
    found = collect(lm, subject.prompts).states
    wanted = [
        [_output(lm, layer, ids)[0, -1].numpy() for layer in range(lm.n_layers)]
        for ids in subject.rows
    ]
    return _error(found, wanted)


@check("heads")
def heads(subject: Subject) -> float | str:
    """Heads of a padded batch are those of each prompt alone, in the layers that offer them."""
    lm = subject.lm
    offered = [block.number for block in blocks(lm, range(lm.n_layers)) if HEADS.find(block)]
    if not offered:
        return NOT_OFFERED
    return max(_heads_error(subject, layer, HEADS) for layer in offered)


def _heads_error(subject: Subject, layer: int, site: Site) -> float:
    ((point,),) = points(subject.lm, [layer], [site])
    found = collect(subject.lm, subject.prompts, sites=[site], layers=[layer])[site]
    wanted = []
    for ids in subject.rows:
        seen: list[Tensor] = []
        with point.module.register_forward_pre_hook(
            lambda _m, arguments, keywords, into=seen: into.append(
                hidden_into(arguments, keywords)
            ),
            with_kwargs=True,
        ):
            _logits(subject.lm, ids)
        wanted.append(seen[0].reshape(ids.shape[1], -1)[-1].numpy())
    return _error(found.reshape(len(wanted), -1), np.stack(wanted))


@check("answers")
def answers(subject: Subject) -> float:
    """Answers of a batch with a cache are those of a loop over forwards.

    Once of prompts that share few tokens, once of prompts whose beginning is computed once.
    """
    lm = subject.lm
    differing = 0
    for ids, answer in chain.from_iterable(
        zip(rows, generate(lm, prompts, max_new_tokens=NEW_TOKENS), strict=True)
        for rows, prompts in ((subject.rows, subject.prompts), (subject.begun_rows, subject.begun))
    ):
        text = ids
        for _ in answer.ids:
            text = torch.cat([text, _logits(lm, text).argmax()[None, None]], dim=1)
        differing += text[0, ids.shape[1] :].tolist() != list(answer.ids)
    return float(differing)


@check("prefixes")
def prefixes(subject: Subject) -> float:
    """Prefix probabilities with a cache and a shared beginning are products over forwards.

    Compared with what a model of equal probabilities gives: the logits of some are almost equal.
    """
    lm = subject.lm
    rows = [lm.chat.encode(prompt) for prompt in subject.begun]
    found = prefix_masses(lm, rows, TREE)
    classes = (TREE.refusal, TREE.compliance)
    wanted = [[_chance(lm, ids, leaves) for ids in subject.begun_rows] for leaves in classes]
    size = _logits(lm, subject.rows[0]).numel()
    equal = np.log([[sum(size ** -len(leaf) for leaf in leaves)] for leaves in classes])
    return _error(np.log([found.p_R, found.p_C]) - equal, np.log(wanted) - equal)


def _chance(lm: LanguageModel, ids: Tensor, leaves: Sequence[ResponsePrefix]) -> float:
    """The probability that a response begins with one of ``leaves``."""
    chances = []
    for leaf in leaves:
        text, steps = ids, []
        for token in leaf:
            steps.append(float(_logits(lm, text).double().softmax(-1)[token]))
            text = torch.cat([text, torch.tensor([[token]])], dim=1)
        chances.append(np.prod(steps))
    return float(sum(chances))


@check("ablate")
def ablated(subject: Subject) -> float:
    """Under ablation no state has the direction."""
    lm, unit = subject.lm, subject.direction / subject.direction.norm()
    with ablate(lm, subject.direction):
        found = collect(lm, subject.prompts).states
    return float(np.abs(found @ unit.numpy()).max() / np.abs(found).max())


@check("add")
def added(subject: Subject) -> float:
    """A vector added at the last prompt token of a batch has the effect of a plain hook."""
    lm, vector = subject.lm, 3 * subject.direction
    rows = [lm.chat.encode(prompt) for prompt in subject.prompts]
    found = np.zeros(len(rows))
    with add(lm, vector, layers=[LAYER], positions=last_prompt_token), torch.no_grad():

        def read(chosen: list[int]) -> np.ndarray:
            batch = lm.chat.pad([rows[i] for i in chosen], lm.device)
            return _log_odds(lm.logits(batch, keep=1)[:, -1])

        for chosen, values in in_fitting_batches(rows, len(rows), read, lm.together(rows)):
            found[chosen] = values

    def edit(states: Tensor) -> Tensor:
        return torch.cat([states[:, :-1], states[:, -1:] + vector], dim=1)

    with _edited(lm.layers[LAYER], edit):
        wanted = [_log_odds(_logits(lm, ids)) for ids in subject.rows]
    return _error(found, wanted)


def _log_odds(logits: Tensor) -> np.ndarray:
    p = logits.detach().double().softmax(-1)[..., TOKEN].numpy()
    odds: np.ndarray = np.log(p / (1 - p))
    return odds


@check("orthogonalise")
def orthogonalised(subject: Subject) -> float:
    """Projected weights write no state along the direction, and give the ablated logits."""
    lm, unit = subject.lm, subject.direction / subject.direction.norm()
    changed = orthogonalise(lm, subject.direction)
    found = collect(changed, subject.prompts).states
    with ablate(lm, subject.direction):
        wanted = [_log_odds(_logits(lm, ids)) for ids in subject.rows]
    left = float(np.abs(found @ unit.numpy()).max() / np.abs(found).max())
    return max(left, _error([_log_odds(_logits(changed, ids)) for ids in subject.rows], wanted))


@check("patch")
def patched(subject: Subject) -> float:
    """A patch of all tokens at a layer is the replacement of the layer's output."""
    source = subject.lm
    target = replace(source, model=copied(source.model))  # which gets a self-check after the noise
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in target.model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.3 * parameter.std() * noise)
    runs = between_models(source, target, subject.prompts)
    found = patch(runs, log_odds([TOKEN]), layers=[LAYER], positions=[WHOLE]).patched[0]
    wanted = []
    for ids in subject.rows:
        given = _output(source, LAYER, ids)
        with _edited(target.layers[LAYER], partial(_instead, given)):
            wanted.append(_log_odds(_logits(target, ids)))
    return _error(found, wanted)


def _output(lm: LanguageModel, layer: int, ids: Tensor) -> Tensor:
    """What a layer returns for one row."""
    seen: list[Tensor] = []
    handle = lm.layers[layer].register_forward_hook(
        lambda _module, _inputs, output: seen.append(hidden_of(output).detach())
    )
    with handle:
        _logits(lm, ids)
    return seen[0]


def _instead(new: Tensor, _old: Tensor) -> Tensor:
    return new


@check("LoRA")
def adapters(subject: Subject) -> float | str:
    """New adapters leave the logits, in training too; the share of the layers' weights with one."""
    given = probe_logits(subject.lm)
    prepared = prepare_in_place(subject.fresh(), LORA)
    prepared.model.train()
    error = relative_error(probe_logits(prepared), given)
    return error if error > LIMIT else f"{coverage_of(prepared).share:.0%}"


@check("saved adapter")
def saved(subject: Subject) -> float:
    """An adapter that is saved and loaded gives the trained model's logits."""
    prepared = prepare_in_place(subject.fresh(), LORA)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    trained = probe_logits(prepared)
    with tempfile.TemporaryDirectory() as folder:
        loaded = LanguageModel.load(save_with_logits(prepared, Path(folder)))
    return relative_error(probe_logits(loaded), trained)


def _scalar(lm: LanguageModel, rows: Any) -> Tensor:
    """The log-probability of a token after each row."""
    batch = lm.chat.pad(rows, lm.device)
    return lm.logits(batch, keep=1)[:, -1].log_softmax(-1)[:, TOKEN]


def _sides(subject: Subject) -> Mapping[str, list[Any]]:
    rows = [subject.lm.chat.encode(prompt) for prompt in subject.prompts]
    return {"a": rows[:3], "b": rows[-3:]}


def _plain_kernel(subject: Subject, lm: LanguageModel) -> np.ndarray:
    """Products of the gradients of single rows, from autograd; pairs of different rows."""
    lm.model.eval()
    trainable = [parameter for parameter in lm.model.parameters() if parameter.requires_grad]
    gradients = {}
    for name, rows in _sides(subject).items():
        each = []
        for row in rows:
            logits = lm.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, -1]
            value = logits.log_softmax(-1)[TOKEN]
            parts = torch.autograd.grad(value, trainable, materialize_grads=True)
            each.append(torch.cat([part.flatten() for part in parts]).double())
        gradients[name] = torch.stack(each)
    apart = ~np.eye(3, dtype=bool)
    return np.array(
        [[(a @ b.T).numpy()[apart].mean() for b in gradients.values()] for a in gradients.values()]
    )


@check("kernel: trainable")
def trained_kernel(subject: Subject) -> float:
    """The kernel of stored gradients is that of autograd."""
    lm = prepare_in_place(subject.fresh(), LORA)
    found = {
        name: mean_gradients(lm, rows, _scalar, groups=3) for name, rows in _sides(subject).items()
    }
    return _error(products_of(found, found).kernel().values, _plain_kernel(subject, lm))


@check("kernel: weights")
def weight_kernel(subject: Subject) -> float:
    """The streamed kernel of all linear weights is that of autograd."""
    side = Side(_sides(subject), _scalar)
    found = streamed_kernel(subject.fresh(), side, side, groups=3).values
    return _error(found, _plain_kernel(subject, prepare_in_place(subject.fresh(), FULL)))


@check("kernel: adapters")
def adapter_kernel(subject: Subject) -> float:
    """The streamed kernel in LoRA's space is that of autograd on the adapters."""
    lm, side = prepare_in_place(subject.fresh(), LORA), Side(_sides(subject), _scalar)
    first = adapter_inputs(lm)
    found = streamed_kernel(
        subject.fresh(), side, side, groups=3, sketch=lambda place, _width: first[place]
    ).values
    return _error(found, _plain_kernel(subject, lm))
