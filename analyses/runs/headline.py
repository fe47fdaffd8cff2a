"""Which arms a first screen shows: per concept the plain arm and the contained one beside it."""

from __future__ import annotations

from dataclasses import dataclass

from analyses.runs.arms import Arm, RunRecord


@dataclass(frozen=True)
class Headline:
    """One unlearned concept (or, in a comparison, one model after).

    `sweep`: all contained arms of the same seed by weight. `contained`: the one shown; `chosen`
    is False when the study chose none: the one that restored most stands in, or else the lightest.
    `others`: the plain arm under other seeds.
    """

    concept: str | None
    plain: Arm
    contained: Arm | None
    chosen: bool
    sweep: tuple[Arm, ...]
    others: tuple[Arm, ...]

    @property
    def shown(self) -> tuple[Arm, ...]:
        return (self.plain, self.contained) if self.contained else (self.plain,)


def headlines(record: RunRecord) -> tuple[Headline, ...]:
    """The headlines of a run: for each concept and objective its first seed, in the run's order.

    A contained arm whose plain arm has not finished has nothing to be compared with: it waits. In
    a run that makes no plain arm at all it leads.
    """
    found: dict[tuple[str | None, str | None, str], Headline] = {}
    planned = record.config.get("arms") or [arm.config for arm in record.arms]
    lone = all(arm.get("retain") or arm.get("control") for arm in planned)
    for plain in (arm for arm in record.arms if not arm.control and (lone or not arm.retain)):
        # Compared models have no objective: each is a story of its own.
        key = (plain.concept, plain.objective, "" if plain.objective else plain.name)
        if key in found:
            continue
        sweep = tuple(arm for arm in record.arms if arm.contains(plain))
        selected = [arm for arm in sweep if arm.selected]
        stand_ins = [arm for arm in sweep if arm.config.get("stands_in")]
        found[key] = Headline(
            concept=plain.concept,
            plain=plain,
            contained=next(iter((*selected, *stand_ins, *sweep)), None),
            chosen=bool(selected),
            sweep=sweep,
            others=tuple(
                arm
                for arm in record.arms
                if plain.objective
                and not (arm.retain or arm.control)
                and (arm.concept, arm.objective) == (plain.concept, plain.objective)
                and arm.seed != plain.seed
            ),
        )
    return tuple(found.values())
