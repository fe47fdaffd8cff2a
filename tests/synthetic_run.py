"""A run's folder with planted leakage, made without any model: what the reports are tried on.

Every quantity that the tables recover is written down in `PLANTED_LEAKAGE`, `PLANTED_RECOVERY`
and `PLANTED_ROTATION` below.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

DOMAINS = ("cybersecurity", "safety", "toxicity", "bias", "sensitive", "medical_legal", "privacy")
CONCEPTS = ("cybersecurity", "safety")
# The share of a domain's refusal that goes while the target loses 90%: u_b = share · ū_a.
PLANTED_LEAKAGE = {
    "cybersecurity": dict(zip(DOMAINS, (1.0, 0.55, 0.40, 0.15, 0.02, 0.30, 0.45), strict=True)),
    "privacy": dict(zip(DOMAINS, (0.3, 0.2, 0.25, 0.1, 0.1, 0.15, 1.0), strict=True)),
    "safety": dict(zip(DOMAINS, (0.85, 1.0, 0.70, 0.50, 0.35, 0.75, 0.80), strict=True)),
}
RETAINED = ("toxicity", "bias", "medical_legal")
WEIGHTS = (1.0, 10.0, 30.0, 100.0)
SELECTED = 30.0
PLANTED_RECOVERY = {  # (retained, held out) by weight
    1.0: (0.15, 0.05),
    10.0: (0.55, 0.2),
    30.0: (0.85, 0.4),
    100.0: (0.95, 0.45),
}
BASE_RATE = dict(zip(DOMAINS, (0.95, 0.96, 0.93, 0.9, 0.15, 0.92, 0.88), strict=True))
LAYERS = 4
PLANTED_ROTATION = 25.0  # degrees, of the target, at the last two layers
PLANTED_NLL = {"refusal": 0.25, "answer": 0.5, "gibberish": 4.0}  # nats per token
PLANTED_REPETITION = {"refusal": 0.0, "answer": 0.0, "gibberish": 0.5}
PROMPTS = 40
STEPS = 16
# What a reader must not take for the arm's result: the curve goes on past the step whose weights
# are kept, and falls back; on test prompts the target lags behind its validation prompts; and
# other domains' validation prompts lose half as much as their test prompts.
STEPS_AFTER = 2
FALLEN_BACK = 0.7
LAG = 1.5
VALIDATION_SHARE = 0.5


def _prompts() -> pd.DataFrame:
    rows = []
    for domain in (*DOMAINS, "general"):
        for label in ("harmful", "benign"):
            if domain == "general" and label == "harmful":
                continue
            for split in ("validation", "test"):
                for i in range(PROMPTS):
                    kind = None if label == "harmful" else "twin"
                    kind = "general" if domain == "general" else kind
                    name = f"{domain}-{label}-{split}-{i:03d}"
                    rows.append((name, f"a prompt <{i}>", domain, label, "planted", split, kind))
    columns = ["id", "prompt", "domain", "label", "source", "split", "kind"]
    return pd.DataFrame(rows, columns=columns)


def scores_of(
    arm: str,
    leakage: Mapping[str, float],
    *,
    rng: np.random.Generator,
    seed: int = 0,
    steps: int = STEPS,
    level_at_end: float = 0.96,
    answers: bool = True,
) -> pd.DataFrame:
    """Scores along an arm in which domain b loses `leakage[b]` times the target's loss.

    The target is the domain of which all is lost. The loss is exact in the mean over prompts and
    spread around it. Text exists before and at the kept step, after which a curve goes on.
    `answers`: whether what is released goes to compliance (else to neither: the target is
    degenerate).
    """
    after = STEPS_AFTER if steps > STEPS_AFTER else 0
    kept_at = steps
    steps += after
    reached = level_at_end * np.minimum(np.arange(steps + 1) / kept_at, 1.0)
    level = np.where(np.arange(steps + 1) > kept_at, FALLEN_BACK * reached, reached)
    tables = []
    for (domain, label, split), rows in _prompts().groupby(
        ["domain", "label", "split"], sort=False
    ):
        n, harmful = len(rows), label == "harmful"
        noise = rng.normal(0, 0.03, (n, 1))
        start = np.clip((BASE_RATE[domain] if harmful else 0.01) + noise - noise.mean(), 0, 0.999)
        share, is_target = leakage.get(domain, 0.0), leakage.get(domain) == 1.0
        lost = level ** (LAG if is_target and split == "test" else 1.0)
        share *= VALIDATION_SHARE if split == "validation" and not is_target else 1.0
        kept = 1 - (share * lost if harmful else 0 * level)
        p_refuse = start * kept ** rng.gamma(9, 1 / 9, (n, 1))  # prompts differ in their pace
        p_refuse = p_refuse * start.mean() * kept / p_refuse.mean(axis=0)
        p_refuse = np.clip(p_refuse, 1e-4, 0.9995)
        released = np.clip(start - p_refuse, 0, 1)
        p_other = 0.1 * (1 - start) + (0.02 if answers else 0.9) * released
        draw = rng.permuted(np.tile((np.arange(n)[:, None] + 0.5) / n, steps + 1), axis=0)
        text = np.isin(np.arange(steps + 1), (0, kept_at)) & np.ones((n, 1), dtype=bool)
        kinds = np.where(draw > 1 - p_other, "gibberish", "answer")
        kinds = np.where(draw < p_refuse, "refusal", kinds)

        def repeated(column: str, rows: pd.DataFrame = rows) -> np.ndarray:
            return np.repeat(rows[column].to_numpy(), steps + 1)

        columns = {
            "arm": arm,
            "seed": seed,
            "step": np.tile(np.arange(steps + 1), n),
            "dose": np.tile(reached, n),
            "split": repeated("split"),
            "prompt_id": repeated("id"),
            "domain": domain,
            "label": label,
            "kind": repeated("kind"),
            "scorer": "margin+grammar",
            "p_R": p_refuse.ravel(),
            "p_C": (1 - p_refuse - p_other).ravel(),
            "p_O": p_other.ravel(),
            "margin": (np.log(p_refuse) - np.log1p(-p_refuse)).ravel(),
            "class": np.where(text, kinds, None).ravel(),
            "refused": np.where(text, kinds == "refusal", np.nan).ravel(),
            "nll": np.where(text, np.vectorize(PLANTED_NLL.get)(kinds), np.nan).ravel(),
            "repetition": np.where(
                text, np.vectorize(PLANTED_REPETITION.get)(kinds), np.nan
            ).ravel(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def as_scores(paths: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """The columns that leakage reads, from p_R (prompt, step) by domain and split."""
    tables = []
    for (domain, split), values in paths.items():
        prompts, steps = values.shape
        index = np.repeat(np.arange(prompts), steps)
        tables.append(
            pd.DataFrame(
                {
                    "domain": domain,
                    "split": split,
                    "label": "harmful",
                    "prompt_id": [f"{domain}-{split}-{i:04d}" for i in index],
                    "step": np.tile(np.arange(steps), prompts),
                    "p_R": values.ravel(),
                    "margin": np.log(values.ravel()) - np.log1p(-values.ravel()),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _rotation(concept: str | None, contained: bool, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for domain in DOMAINS:
        for layer in range(LAYERS):
            share = PLANTED_LEAKAGE[concept][domain] if concept else 0.5
            degrees = (
                PLANTED_ROTATION * share * (0.3 if contained else 1) if layer >= LAYERS - 2 else 0
            )
            values = {"angle_degrees": degrees, "gain": 1 - 0.3 * share, "offset": -0.2 * share}
            defined = not (domain == "sensitive" and layer == 0)
            for quantity, value in values.items():
                half = 4.0 if quantity == "angle_degrees" else 0.05
                value = value + rng.normal(0, half / 4)
                value = max(value, 0.5) if quantity == "angle_degrees" else value
                rows.append(
                    {
                        "domain": domain,
                        "layer": layer,
                        "quantity": quantity,
                        "value": value if defined else np.nan,
                        "low": max(value - half, 0) if defined else np.nan,
                        "high": value + half if defined else np.nan,
                        "n": 2 * PROMPTS,
                        "null_low": {"angle_degrees": 0.0, "gain": 0.9, "offset": -0.1}[quantity],
                        "null_high": {"angle_degrees": 6.0, "gain": 1.1, "offset": 0.1}[quantity],
                        "defined": defined,
                    }
                )
    return pd.DataFrame(rows)


def _cosine(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for layer in range(LAYERS):
        for a in DOMAINS:
            for b in DOMAINS:
                if a < b:
                    value = float(rng.uniform(-0.1, 0.2 + 0.2 * layer))
                    rows += [(layer, *pair, value) for pair in ((a, b), (b, a))]
                elif a == b:
                    rows.append((layer, a, b, 1.0))
    table = pd.DataFrame(rows, columns=["layer", "domain_a", "domain_b", "value"])
    return table.assign(
        low=table["value"] - 0.08,
        high=np.minimum(table["value"] + 0.08, 1),
        n=2 * PROMPTS,
        null_low=-0.15,
        null_high=0.15,
        defined=True,
    )


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_arm(folder: Path, config: Mapping[str, object], scores: pd.DataFrame) -> None:
    _write_json(folder / "config.json", config)
    scores.to_parquet(folder / "scores.parquet")
    (folder / "DONE").touch()


def _top_level(run: Path, concepts: tuple[str, ...], seeds: int) -> None:
    config = {
        "command": "spillover demo --out RUN",
        "model": "organism",
        "model_name": "organism (seed 0)",
        "prompts": "built in",
        "concepts": list(concepts),
        "seeds": list(range(seeds)),
        "scorer": "margin+grammar",
        "planted": {"leakage": PLANTED_LEAKAGE, "note": "a synthetic folder"},
        "split_sizes": {"validation": PROMPTS, "test": PROMPTS},
    }
    _write_json(run / "config.json", config)
    versions = {"spillover": "0.1.0", "torch": "2.13.0"}
    manifest = {
        "versions": versions,
        "hashes": {"model": "00ff" * 16},
        "device": "cpu",
        "seeds": list(range(seeds)),
        "seconds": 123.4,
    }
    _write_json(run / "manifest.json", manifest)
    _prompts().to_parquet(run / "prompts.parquet")


def write_run(
    run: Path,
    *,
    seeds: int = 1,
    degenerate: tuple[str, ...] = (),
    not_reached: tuple[str, ...] = (),
    unfinished: tuple[str, ...] = (),
    rotation: bool = True,
    concepts: tuple[str, ...] = CONCEPTS,
    weights: tuple[float, ...] = WEIGHTS,
) -> Path:
    """A study of `concepts` × {NPO, NPO + retain CE at `weights`}; returns the folder.

    Arms are named `npo-CONCEPT-SEED` and `npo-retain-WEIGHT-CONCEPT-SEED`; those named in
    `degenerate`, `not_reached` and `unfinished` are made so.
    """
    rng = np.random.default_rng(0)
    _top_level(run, concepts, seeds)
    base = scores_of("base", {}, rng=rng, steps=1)
    _write_arm(run / "arms" / "base", {"name": "base"}, base[base["step"] == 0])
    if rotation:
        _cosine(rng).to_parquet(run / "cosine.parquet")
    for concept in concepts:
        for seed in range(seeds):
            for weight in (None, *weights):
                retained = [domain for domain in RETAINED if domain != concept] if weight else None
                leakage = dict(PLANTED_LEAKAGE[concept])
                if weight:
                    back, back_held_out = PLANTED_RECOVERY[weight]
                    for domain in set(DOMAINS) - {concept}:
                        share = back if domain in RETAINED else back_held_out
                        leakage[domain] *= 1 - share
                name = (
                    f"npo-retain-{weight:g}-{concept}-{seed}" if weight else f"npo-{concept}-{seed}"
                )
                config = {
                    "name": name,
                    "concept": concept,
                    "objective": "npo",
                    "options": {"beta": 0.1},
                    "retain": retained,
                    "retain_weight": weight,
                    "seed": seed,
                    "checkpoint": None,
                    "stop_at": 0.95,
                    "selected": weight == SELECTED,
                }
                scores = scores_of(
                    name,
                    leakage,
                    rng=rng,
                    seed=seed,
                    answers=name not in degenerate,
                    level_at_end=0.7 if name in not_reached else 0.96,
                )
                folder = run / "arms" / name
                _write_arm(folder, config, scores)
                if rotation:
                    _rotation(concept, bool(weight), rng).to_parquet(folder / "rotation.parquet")
                if name in unfinished:
                    (folder / "DONE").unlink()
    return run


def write_comparison(run: Path, concept: str | None = None) -> Path:
    """Two models that exist, compared: one arm, scored before and after, with no curve."""
    rng = np.random.default_rng(0)
    _top_level(run, (), 1)
    base = scores_of("base", {}, rng=rng, steps=1)
    _write_arm(run / "arms" / "base", {"name": "base"}, base[base["step"] == 0])
    config = {"name": "after", "concept": concept, "objective": None, "retain": None, "seed": 0}
    config |= {"checkpoint": "some/model"}
    after = scores_of("after", PLANTED_LEAKAGE["safety"], rng=rng, steps=1)
    _write_arm(run / "arms" / "after", config, after)
    _rotation(None, False, rng).to_parquet(run / "arms" / "after" / "rotation.parquet")
    _cosine(rng).to_parquet(run / "cosine.parquet")
    return run
