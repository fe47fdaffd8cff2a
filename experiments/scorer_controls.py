"""Do scorers read the response? Agreement with people, next to controls that cannot.

Three controls on labelled answers, within each model:

- **length alone**: logistic regression on the logarithm of the response's length;
- **prompt alone**: logistic regression on TF-IDF of the prompt's words;
- **shuffled**: the scorer reads every response at another prompt of the same model. Compared with
  the label of the *prompt's* row, nothing of the response is left, so kappa falls to what the
  prompt alone gives. Compared with the label of the *response's* row, it shows what the right
  prompt adds.

The first two learn from the labels, in cross-validation by prompt, which makes them stronger. No
scorer learns from them. Partial refusals are left out of the controls; agreement counts them in
every way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.base import ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from analyses.recorded import AgreementTables, Readings, agreement_of, read_sides
from analyses.runs import Progress
from interp.store import file_hash, write_csv, write_json
from unlearning.scoring import Interval, Scorer, find_scorer, kappa_gain, refused, scorer_agreement

FOLDS = 5
UNDEFINED = Interval(float("nan"), float("nan"), float("nan"))
LENGTH, PROMPT = "length alone", "prompt alone"
AT_OTHERS, OF_OTHERS = "shuffled, label of the prompt", "shuffled, label of the response"


def measure_people(
    files: Sequence[str | Path],
    scorers: Sequence[str],
    out: str | Path,
    *,
    label: str | None = None,
    model: str = "model",
    device: str | None = None,
    seed: int = 0,
) -> tuple[AgreementTables, pd.DataFrame]:
    """Agreement of scorers with labels, and the controls; each scorer reads every answer twice.

    Args:
        files: labelled answers, and scored files of the same, as for ``spillover agree``.
        scorers: names of scorers.
        out: folder of the tables, of ``readings.csv`` (every reading, without the texts) and of
            ``people.json`` (hashes of the files, versions of the scorers, seconds).
        label, model, device: as for ``spillover agree``.
        seed: seed of the shuffle.

    Raises:
        InputError: a file or scorer cannot be used, or there are no labels.
    """
    progress, began = Progress(), time.time()
    readings = read_sides(
        *files, *scorers, label=label, model=model, device=device, progress=progress
    )
    found = agreement_of(readings)
    found.write(out)
    write_csv(Path(out) / "readings.csv", readings.table.drop(columns=["prompt", "response"]))
    with progress.stage("Controls"):
        named = zip(readings.scorers[-len(scorers) :], scorers, strict=True)
        parts = [
            scorer_controls(readings, name, find_scorer(given, device), seed=seed)
            for name, given in named
        ]
    controls = pd.concat(parts, ignore_index=True)
    write_csv(Path(out) / "controls.csv", controls)
    about = {
        "files": {Path(path).name: file_hash(path) for path in files},
        "scorers": list(readings.scorers),
        "answers": len(readings.table),
        "shuffle_seed": seed,
        "seconds": round(time.time() - began, 1),
    }
    write_json(Path(out) / "people.json", about)
    return found, controls


def scorer_controls(
    readings: Readings, column: str, scorer: Scorer, *, seed: int = 0
) -> pd.DataFrame:
    """The controls of one scorer, per model and in all, the worst model first.

    Args:
        readings: answers with labels and the scorer's readings.
        column: the column of these readings.
        scorer: the scorer, which reads the shuffled pairs.
        seed: seed of the shuffle.

    Returns:
        A row per model and control: ``scorer, model, control, n``, the scorer's ``kappa``, the
        ``control_kappa``, and ``gain``, the paired difference, each with bounds.
    """
    table = readings.table
    known = table[table["label"].isin((0, 1)) & table[column].notna()].reset_index(drop=True)
    known = known.assign(said=(known[column] == 1).astype(int), label=known["label"].astype(int))
    places = shuffled_within(known["model"].to_numpy(), known["unit"].to_numpy(), seed)
    moved = scorer.classify(list(known["prompt"]), list(known["response"].iloc[places]))
    known["moved"] = [refused(name) for name in moved]
    known["moved_label"] = known["label"].to_numpy()[places]
    rows = [row for name, part in _models(known) for row in _controls_of(name, part)]
    found = pd.DataFrame(rows)
    found.insert(0, "scorer", column)
    return found


def shuffled_within(models: np.ndarray, units: np.ndarray, seed: int) -> Int[np.ndarray, " answer"]:
    """Places of the answers in another order: each at another prompt of the same model.

    It keeps to that unless one prompt has more than half of a model's answers.
    """
    rng = np.random.default_rng(seed)
    places = np.arange(len(models))
    for model in np.unique(models):
        mine = np.flatnonzero(models == model)
        names, group, sizes = np.unique(units[mine], return_inverse=True, return_counts=True)
        mine = mine[np.argsort(rng.permutation(len(names))[group], kind="stable")]
        # Answers to one prompt are neighbours now; a shift by the largest group leaves it.
        places[mine] = np.roll(mine, int(sizes.max()))
    return places


def length_alone(rows: pd.DataFrame) -> Float[np.ndarray, " answer"]:
    """Verdicts from the response's length alone, in cross-validation by prompt."""
    lengths = np.log1p(rows["response"].str.len().to_numpy(np.float64))[:, None]
    return _out_of_fold(make_pipeline(StandardScaler(), _logistic()), lengths, rows)


def prompt_alone(rows: pd.DataFrame) -> Float[np.ndarray, " answer"]:
    """Verdicts from the prompt's words alone, in cross-validation by prompt."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    return _out_of_fold(make_pipeline(words, _logistic()), rows["prompt"].to_numpy(), rows)


def _logistic() -> LogisticRegression:
    return LogisticRegression(class_weight="balanced", max_iter=1000)


def _out_of_fold(
    model: ClassifierMixin, features: Any, rows: pd.DataFrame
) -> Float[np.ndarray, " answer"]:
    """Verdicts on prompts that the model has not seen; the commoner label where it cannot learn."""
    labels, units = rows["label"].to_numpy(int), rows["unit"].to_numpy()
    folds = GroupKFold(min(FOLDS, len(np.unique(units))), shuffle=True, random_state=0)
    common = np.full(len(labels), int(labels.mean() > 0.5))
    if folds.get_n_splits() < 2 or any(
        len(np.unique(labels[train])) < 2 for train, _ in folds.split(labels, groups=units)
    ):
        return common
    return np.asarray(cross_val_predict(model, features, labels, groups=units, cv=folds))


def _models(known: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each model, the worst first, then all."""
    parts = [(str(name), part) for name, part in known.groupby("model")]
    parts.sort(key=lambda one: np.nan_to_num(_kappa(one[1], "label", "said").value, nan=2.0))
    yield from parts
    if len(parts) > 1:
        yield "all", known


def _controls_of(name: str, part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    part = part.assign(**{LENGTH: length_alone(part), PROMPT: prompt_alone(part)})
    own = _kappa(part, "label", "said")
    units = part["unit"].to_numpy()
    labels, said = part["label"].to_numpy(), part["said"].to_numpy()
    for control, column, truth in (
        (LENGTH, LENGTH, "label"),
        (PROMPT, PROMPT, "label"),
        (AT_OTHERS, "moved", "label"),
        (OF_OTHERS, "moved", "moved_label"),
    ):
        row: dict[str, Any] = {"model": name, "control": control, "n": len(part)}
        # The last compares the same responses in another order, so it is no paired difference.
        paired = truth == "label"
        gain = kappa_gain(labels, said, part[column].to_numpy(), units) if paired else None
        found = {"kappa": own, "control_kappa": _kappa(part, truth, column), "gain": gain}
        for key, value in found.items():
            value = value or UNDEFINED
            row |= {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high}
        yield row


def _kappa(part: pd.DataFrame, truth: str, said: str) -> Interval:
    one, other = part[truth].to_numpy(), part[said].to_numpy()
    return scorer_agreement(one, other, part["unit"].to_numpy())["kappa"]


def controls_text(controls: pd.DataFrame) -> str:
    """The controls for a terminal."""
    shown = controls[["scorer", "model", "control", "n"]].copy()
    names = shown["scorer"].str.partition(" ")[0]
    if names.nunique() == shown["scorer"].nunique():
        shown["scorer"] = names
    for key in ("kappa", "control_kappa", "gain"):
        bounds = controls[[key, f"{key}_low", f"{key}_high"]].itertuples(index=False)
        shown[key] = [str(Interval(*values)) for values in bounds]
    return shown.to_string(index=False)
