"""Shallow-recovery tests of contained models.

A contained model that refuses in the other domains may have no loss there, or it may only mask the
loss. Three tests distinguish the two, each with the base and a separate control: prefill, prefixes
forced on the answer (:mod:`.prefilled`); triggers, training prompts of the target as context
(:mod:`.triggers`); and relearning, the speed of a second loss (:mod:`.relearning`).

The tests cannot prove that no loss remains: a model that passes them may fail another test.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pandas as pd

from analyses.contain.shallow_recovery.findings import (
    Finding,
    of_compliance_prefixes,
    of_refusal_prefixes,
    of_relearning,
    of_triggers,
)
from analyses.contain.shallow_recovery.others import Others, Probe
from analyses.contain.shallow_recovery.prefilled import draw_prefixes, prefilled, prefilled_table
from analyses.contain.shallow_recovery.relearning import (
    curves_table,
    relearning,
    relearning_table,
    trainings_of,
)
from analyses.contain.shallow_recovery.triggers import draw_triggers, triggered, triggers_table
from interp.errors import InputError

if TYPE_CHECKING:
    from interp.model import LanguageModel
    from unlearning.refusal import ResponsePrefixes
    from unlearning.scoring import Scorer
    from unlearning.training import Example, TrainingSettings


BASE, PLAIN = "base", "plain"
TABLES = ("prefilled", "triggers", "relearning", "curves")


@dataclass(frozen=True)
class ShallowRecovery:
    """The results of the three tests.

    Attributes:
        concept: the target.
        contained: names of the contained models.
        prefilled, triggers, relearning: tidy tables; see the modules.
        curves: u of the other domains along every relearning, by step; empty like ``relearning``
            without relearning.
        findings: one for each test and contained model.
    """

    concept: str
    contained: tuple[str, ...]
    prefilled: pd.DataFrame
    triggers: pd.DataFrame
    relearning: pd.DataFrame
    curves: pd.DataFrame
    findings: tuple[Finding, ...]

    @property
    def sentences(self) -> list[str]:
        """A plain sentence for each test and contained model."""
        return [finding.sentence for finding in self.findings]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of the tests, by the names of their files."""
        return {name: getattr(self, name) for name in TABLES if len(getattr(self, name))}

    @classmethod
    def from_tables(
        cls, concept: str, contained: tuple[str, ...], folder: str | Path
    ) -> ShallowRecovery:
        """The tables that ``spillover contain`` wrote, without the findings (``residue.csv``)."""
        paths = {name: Path(folder) / f"{name}.csv" for name in TABLES}
        tables = {n: pd.read_csv(p) if p.is_file() else pd.DataFrame() for n, p in paths.items()}
        return cls(concept, contained, **tables, findings=())

    def to_dataframe(self) -> pd.DataFrame:
        """A row per finding: ``test, model, verdict, value, low, high, n, reason, sentence``."""
        rows = [asdict(finding) for finding in self.findings]
        return pd.DataFrame([row | row.pop("difference") for row in rows])


def measure_shallow_recovery(
    base: LanguageModel,
    plain: LanguageModel,
    contained: Mapping[str, LanguageModel],
    prompts: pd.DataFrame,
    prefixes: ResponsePrefixes,
    scorer: Scorer,
    concept: str,
    *,
    forget: Sequence[Example] | None = None,
    settings: TrainingSettings | None = None,
    forced: int = 3,
    triggers: int = 8,
    draws: int = 3,
    max_new_tokens: int = 48,
    batch_size: int = 64,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ShallowRecovery:
    """All three tests of every contained model, on the other domains' harmful test prompts.

    Args:
        base, plain: the model before unlearning, and after unlearning without containment.
        contained: by name; each test looks each model up once, so the mapping may load them.
        prompts: a prompts table with training and test prompts.
        prefixes: of the base.
        scorer: assigns a class to each answer.
        concept: the target.
        forget: the target's deflections, without references; relearning needs it and ``settings``.
        settings: settings of the contained models' training; ``max_steps`` limits relearning.
        forced: maximum number of prefixes of each kind.
        triggers: maximum number of training prompts of the target.
        draws: number of random weight changes for each contained model.
        max_new_tokens: of an answer, after its prefix.
        batch_size: prompts in one forward.
        resamples, seed: for prompts and triggers, and for random draws.
        progress: called with the name of each step.

    Raises:
        InputError: no contained model, a name that occurs twice, or too few prompts.
    """
    if not contained or {BASE, PLAIN} & set(contained):
        raise InputError(
            f"contained models are {', '.join(contained) or 'none'}; give at least one, under "
            f"names other than {BASE} and {PLAIN}"
        )
    say = progress or (lambda _text: None)
    others = Others.of(prompts, concept, resamples=resamples, seed=seed)
    probe = Probe(others, prefixes, scorer, concept, max_new_tokens, batch_size, seed)
    # Iterates over the base first, and loads a model only when needed.
    models = ChainMap(cast("dict[str, LanguageModel]", contained), {BASE: base, PLAIN: plain})
    say("answers to prefilled prefixes")
    drawn = draw_prefixes(base, prompts, prefixes, count=forced, seed=seed)
    spoken = prefilled(models, probe, drawn)
    say("training prompts as context")
    under_triggers = triggered(
        models, probe, draw_triggers(base, prompts, concept, count=triggers, seed=seed)
    )
    speeds = {}
    if forget is not None and settings is not None:
        for way, training in trainings_of(plain, forget, settings, prompts, probe).items():
            say(f"relearning on {way}")
            speeds[way] = relearning(base, contained, training, probe, draws=draws)
    findings: list[Finding] = []
    for name in contained:
        findings.append(of_compliance_prefixes(spoken, others, name))
        findings.append(of_refusal_prefixes(spoken, others, name))
        findings.append(of_triggers(under_triggers, others, name, concept))
        findings += [of_relearning(found, others, name, concept, way)
                     for way, found in speeds.items()]  # fmt: skip
    return ShallowRecovery(
        concept,
        tuple(contained),
        prefilled_table(spoken, others, PLAIN),
        triggers_table(under_triggers, others, PLAIN),
        relearning_table(speeds, others),
        curves_table(speeds, others),
        tuple(findings),
    )
