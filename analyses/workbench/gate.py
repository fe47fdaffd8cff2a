"""The direction gate and the intervention transfer matrix, for refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analyses.runs import Progress
from analyses.study import (
    GATE_PROMPTS,
    gate_on,
    gate_prompts,
    gate_trials,
    kept_trials,
    prompts_by_domain,
)
from analyses.workbench.loading import require_loaded
from analyses.workbench.responses import defaults_of, learned_prefixes, refusal_log_odds
from interp.model import LanguageModel
from interp.readout import Readout
from interp.selection import DirectionGate, TransferMatrix, measure_transfer
from interp.store import user_cache
from unlearning.refusal import readout_of

if TYPE_CHECKING:
    import pandas as pd


def direction_gate(
    lm: LanguageModel,
    prompts: pd.DataFrame | None = None,
    *,
    readout: Readout | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    per_domain: int = GATE_PROMPTS,
    draws: int = 19,
    scorer: str | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> DirectionGate:
    """Test whether one direction mediates refusal: its edit bypasses, its addition induces.

    The component along the direction is set to its benign mean, per layer and place, from the
    direction's layer on. The direction is a mean difference, of all domains or of one. It is chosen
    on validation prompts and reported on test prompts; only refused harmful and answered benign
    prompts count. It passes if bypass < 0, induce > 0, KL < .15 nats, and both effects are beyond
    random and covariance-matched directions. All edits spare tokens of massive activation.

    Args:
        lm: the model.
        prompts: a table of prompts (default: the built-in pairs, or a model organism's own).
        readout: of refusal (default: ``sp.refusal_log_odds`` of the training prompts used, which
            needs the model's responses to them).
        layers: 0-based layers of candidates (default: at most 8 of the first 80%).
        positions: tokens of candidates, -1 is the last one (default: all after the instruction in
            a model of at most 8 layers, else the last).
        per_domain: most prompts of each domain, label and split.
        draws: null directions of each kind; with fewer than 19, the direction must beat all.
        scorer: distinguishes refusals from answers (default: ``panel``; ``grammar`` for a
            model organism).
        max_new_tokens: maximum length of a response in tokens (default: 48; 16 for a
            model organism).
        batch_size: prompts in one forward.
        seed: of the sample of prompts and of the null directions.

    Returns:
        ``.passed``, ``.reasons``, ``.bypass``, ``.induce``, ``.kl``, ``.direction``, ``.layer``,
        ``.nulls``, the zero form ``.zero``, and every candidate in ``.frame``. ``.plot()`` draws
        the effects with their nulls; ``with gate.editing(lm):`` applies the edit.

    Raises:
        InputError: the model refuses too few harmful prompts to be tested, or too many benign ones.

    Source:
        Arditi et al. 2024, arXiv 2406.11717; affine editing: Marshall et al. 2024, arXiv
        2411.09003.

    Example:
        >>> gate = sp.direction_gate(lm, prompts, draws=3, per_domain=4)
        >>> gate.passed
        True
    """
    require_loaded(lm)
    table = _sampled(lm, prompts, per_domain, seed)
    if readout is None:
        readout = refusal_log_odds(lm, table, scorer=scorer, max_new_tokens=max_new_tokens)
    return gate_on(
        lm,
        table,
        readout,
        layers=layers,
        positions=positions,
        draws=draws,
        batch_size=batch_size,
        seed=seed,
    )


def resumed_gate(lm: LanguageModel, progress: Progress) -> DirectionGate:
    """:func:`direction_gate` with its defaults, kept in the user's cache while it is measured.

    An interrupted call goes on, and a repeated one reads what the first one found.

    Raises:
        InputError: as for :func:`direction_gate`.
    """
    table = _sampled(lm, None, GATE_PROMPTS, 0)
    fingerprint = lm.fingerprint()
    folder = user_cache("gates") / fingerprint[:16]
    training = int((table["split"] == "train").sum())
    with progress.stage("direction gate: answers", training) as advance:
        prefixes = learned_prefixes(
            lm, table, folder=folder, fingerprint=fingerprint, progress=advance
        )
    kept = kept_trials(folder, lm, fingerprint, table, prefixes)
    with progress.stage("direction gate", gate_trials(table, lm.n_layers)) as advance:
        return gate_on(lm, table, readout_of(prefixes), progress=advance, kept=kept)


def transfer_matrix(
    lm: LanguageModel,
    prompts: pd.DataFrame | None = None,
    *,
    layer: int | None = None,
    position: int = -1,
    readout: Readout | None = None,
    per_domain: int = GATE_PROMPTS,
    draws: int = 19,
    scorer: str | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> TransferMatrix:
    """What the edit of one domain's direction does to the refusals of every domain.

    Row a, column b: the share of b's gap between harmful and benign log-odds that is removed on
    b's harmful prompts when a's component is set to its benign mean, and induced on b's benign
    prompts when a's mean difference is added.

    Args:
        lm: the model.
        prompts: a table of prompts (default: the built-in pairs, or a model organism's own).
        layer: 0-based layer at whose input the directions lie (default: that of
            ``sp.direction_gate``, which is measured first).
        position: token of the directions, if ``layer`` is given; -1 is the last one.
        readout: of refusal (default: ``sp.refusal_log_odds`` of the training prompts used).
        per_domain: most prompts of each domain, label and split.
        draws: null directions, from the covariance within labels.
        scorer, max_new_tokens, batch_size, seed: as for ``sp.direction_gate``.

    Returns:
        ``.removed``, ``.induced``, their nulls, the cosine, and the representational dependence;
        ``.to_dataframe()`` has a row per pair; ``.plot()`` hatches the cells inside their null.

    Raises:
        InputError: fewer than two domains have enough refused harmful and answered benign prompts.

    Source:
        Representational independence: Wollschläger et al. 2025, arXiv 2502.17420.

    Example:
        >>> matrix = sp.transfer_matrix(lm, prompts, layer=1, readout=readout, draws=2)
        >>> matrix.removed.shape == (len(matrix.labels),) * 2
        True
    """
    require_loaded(lm)
    table = _sampled(lm, prompts, per_domain, seed)
    if readout is None:
        readout = refusal_log_odds(lm, table, scorer=scorer, max_new_tokens=max_new_tokens)
    if layer is None:
        gate = direction_gate(
            lm, prompts, readout=readout, per_domain=per_domain, draws=1, seed=seed,
            batch_size=batch_size,
        )  # fmt: skip
        layer, position = gate.layer, gate.position
    return measure_transfer(
        lm,
        prompts_by_domain(table, "train"),
        prompts_by_domain(table, "test"),
        readout,
        layer=layer,
        position=position,
        draws=draws,
        batch_size=batch_size,
        seed=seed,
    )


def _sampled(
    lm: LanguageModel, prompts: pd.DataFrame | None, per_domain: int, seed: int
) -> pd.DataFrame:
    table = defaults_of(lm).prompts(None) if prompts is None else prompts
    return gate_prompts(table, per_domain, seed)
