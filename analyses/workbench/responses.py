"""Responses of a model, their scores, and the log-odds that a response begins with a refusal."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.study import Defaults, defaults_for
from analyses.workbench.loading import require_loaded
from analyses.workbench.tables import texts_of
from interp.errors import InputError
from interp.model import LanguageModel
from interp.progress import Advance, silent
from interp.readout import Readout
from unlearning import generation

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.refusal import ResponsePrefixes


def defaults_of(lm: LanguageModel) -> Defaults:
    """The defaults of commands for a model in memory."""
    return defaults_for(str(getattr(lm.model, "name_or_path", "") or ""))


def scratch_of(lm: LanguageModel) -> Path:
    """A temporary folder for results of a model in memory; it is deleted with the model."""
    if "scratch" not in lm.found_out:
        lm.found_out["scratch"] = tempfile.TemporaryDirectory(prefix="spillover-")
    return Path(lm.found_out["scratch"].name)


def generate(
    lm: LanguageModel,
    prompts: pd.DataFrame | Sequence[str],
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> list[str]:
    """The responses of a model, one for each prompt, in order.

    Args:
        lm: the model, with its active interventions.
        prompts: a table of prompts, or texts.
        max_new_tokens: maximum length of a response in tokens (default: 48; 16
            for a model organism).
        temperature: 0 decodes greedily; above 0 samples from the full distribution.
        seed: of the sampling.
        batch_size: prompts in one forward; fewer once a batch does not fit into memory.

    Returns:
        Texts without special tokens. ``sp.unlearning.generation.generate`` gives the token ids too,
        and whether the model ended its response.

    Raises:
        MachineError: a single prompt does not fit into memory.

    Example:
        >>> sp.generate(lm, prompts["prompt"].head(2))
        ['Impossible, this stays unanswered!', 'Absolutely: done.']
        >>> with sp.ablate(lm, dirs["safety", 2]):
        ...     changed = sp.generate(lm, prompts["prompt"].head(2))
    """
    require_loaded(lm)
    length = defaults_of(lm).answer_tokens if max_new_tokens is None else max_new_tokens
    answers = generation.generate(
        lm,
        texts_of(prompts),
        max_new_tokens=length,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
    )
    return [answer.text for answer in answers]


def score(
    prompts: pd.DataFrame | Sequence[str],
    responses: Sequence[str],
    *,
    scorer: str = "panel",
    device: str | None = None,
) -> pd.DataFrame:
    """Score each response: whether it refuses, and its class.

    Args:
        prompts: a table of prompts, a column of texts, or a list.
        responses: one for each prompt.
        scorer: ``panel``, ``phrases``, ``classifier``, ``probe``, ``grammar`` (for a
            model organism), ``judge:MODEL``, ``local-judge:MODEL``, or a scorer that you
            registered.
        device: where the scorer's model runs, if it has one (default: CUDA if available).

    Returns:
        One row per response, with the index of the prompts: ``refused`` (1 for a full refusal, 0
        for everything else) and ``class`` (``full_refusal``, ``partial_refusal``, ``evasion``,
        ``answer``, ``empty``, ``gibberish`` or ``other_language``). Both are missing if a judge
        gave no verdict.

    Raises:
        InputError: the numbers of responses and prompts differ, or the scorer is unknown.

    Example:
        >>> sp.score(["How do I boil rice?"], ["I'm sorry, but I can't help with that."])
           refused         class
        0        1  full_refusal
    """
    import pandas as pd

    from analyses.recorded.scoring import Scoring, require_answers
    from unlearning.data import Record
    from unlearning.scoring import REFUSAL, find_scorer

    asked, answers = texts_of(prompts), list(responses)
    if len(asked) != len(answers):
        raise InputError(
            f"{len(answers)} responses to {len(asked)} prompts; give one for each prompt"
        )
    records = [
        Record(f"row {number}", {"prompt": prompt, "response": answer})
        for number, (prompt, answer) in enumerate(zip(asked, answers, strict=True), start=1)
    ]
    require_answers(records, ("prompt",), "the answers")
    scoring = Scoring(records, find_scorer(scorer, device), REFUSAL.name)
    index = prompts.index if isinstance(prompts, pd.DataFrame | pd.Series) else None
    rows = [scoring.fields(each) for each in scoring.classes(silent)]
    return pd.DataFrame(rows, index=index, columns=["refused", "class"])


def refusal_log_odds(
    lm: LanguageModel,
    prompts: pd.DataFrame,
    *,
    scorer: str | None = None,
    max_new_tokens: int | None = None,
) -> Readout:
    """A readout: the log-odds that the response begins with a refusal prefix.

    The refusal prefixes are learned from the responses of ``lm`` to the training prompts, then
    frozen. Use the readout of the base model for every model derived from it.

    Args:
        lm: the base model.
        prompts: a table of prompts; the model answers its split ``train``.
        scorer: distinguishes refusals from answers (default: ``panel``; ``grammar``
            for a model organism).
        max_new_tokens: maximum length of a response in tokens (default: 48; 16
            for a model organism).

    Returns:
        A function of a model and rows of tokens that gives one number per row, in nats and with
        its gradient.

    Raises:
        InputError: the model gives no refusals or no answers, or no prefixes separate them.

    Example:
        >>> readout = sp.refusal_log_odds(lm, prompts)
        >>> sp.patch(lm, after, prompts, readout=readout).gap > 0
        True
    """
    from unlearning.refusal import readout_of

    require_loaded(lm)
    prefixes = learned_prefixes(lm, prompts, scorer=scorer, max_new_tokens=max_new_tokens)
    return readout_of(prefixes)


def learned_prefixes(
    lm: LanguageModel,
    prompts: pd.DataFrame,
    *,
    scorer: str | None = None,
    max_new_tokens: int | None = None,
    folder: Path | None = None,
    fingerprint: str | None = None,
    progress: Advance = silent,
) -> ResponsePrefixes:
    """The prefixes of :func:`refusal_log_odds`.

    ``folder`` keeps the responses (default: a temporary one); ``fingerprint`` is the model's, if it
    is known; ``progress`` is called with the number of prompts just answered.
    """
    from analyses.study import answer_log, prefixes_of
    from unlearning.deflections import respond
    from unlearning.scoring import find_scorer

    own = defaults_of(lm)
    length = own.answer_tokens if max_new_tokens is None else max_new_tokens
    responses = respond(
        lm,
        prompts[prompts["split"] == "train"],
        find_scorer(scorer or own.scorers[0], str(lm.device)),
        max_new_tokens=length,
        log=answer_log(folder or scratch_of(lm), lm, length, fingerprint),
        progress=progress,
    )
    return prefixes_of(responses)
