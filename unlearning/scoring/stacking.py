"""The fits of the probe and the panel: from the package's own texts, kept for each reader.

The probe is a logistic regression on a reader's states. The panel is another one on the members'
verdicts about the same texts, each by a member that was fitted without the text's prompt. Fits are
shipped for the default reader and for no reader; others are made at the first use, which reads
the package's texts once, and are kept in the user's cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError
from interp.progress import Advance, silent
from interp.store import atomic_write, user_cache
from unlearning.scoring.classes import CLASSES, Texts
from unlearning.scoring.classifier import LEARNED, Classifier, held_out_log_probabilities
from unlearning.scoring.linear_classes import LinearClasses, held_out, learn, log_odds
from unlearning.scoring.phrases import Phrases
from unlearning.scoring.rules import by_rule
from unlearning.scoring.texts import RefusalText, refusal_texts

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.scoring.reader import Reader

#: Raise it with every change of the fits that the digest of :func:`key_of` does not see.
VERSION = "1"
# Chosen by cross-validation on the package's own texts.
PROBE_C, STACK_C = 0.01, 0.1
SMALLEST_PROBABILITY = 1e-4
SHIPPED = "panel.safetensors"


@dataclass(frozen=True)
class Fits:
    """What the panel learned.

    Attributes:
        stack: of the members' verdicts.
        threshold: log-odds from which the panel finds a refusal.
        probe: of a reader's states; None without a reader.
        probe_threshold: log-odds from which the probe finds a refusal.
    """

    stack: LinearClasses
    threshold: float
    probe: LinearClasses | None = None
    probe_threshold: float = 0.0


def stacked(
    phrases: Sequence[str],
    classifier: Float[np.ndarray, "row class"],
    probe: Float[np.ndarray, "row class"] | None,
    english: Bool[np.ndarray, " row"],
) -> Float[np.ndarray, "row feature"]:
    """The members' verdicts as features; in other languages only the probe's.

    Args:
        phrases: classes by the phrase list.
        classifier, probe: log-probabilities.
        english: whether the text is English.
    """
    least = np.log(SMALLEST_PROBABILITY)
    named = np.array([[one == name for name in CLASSES] for one in phrases], dtype=np.float64)
    read = np.concatenate([named, np.maximum(classifier, least)], axis=1) * english[:, None]
    if probe is None:
        return read
    found = np.maximum(probe, least)
    foreign = ~english[:, None]
    return np.concatenate([read, found, foreign, found * foreign], axis=1)


def fits_of(reader: Reader | None, *, progress: Advance = silent) -> Fits:
    """The fits for a reader: shipped, kept, or made now.

    Args:
        reader: None for a panel of the phrase list and the classifier.
        progress: called with the number of texts just read, if the fit is made now.
    """
    key = key_of(reader)
    kept = user_cache("panel") / f"{key}.safetensors"
    with suppress(OSError, KeyError):
        return stored_fits(shipped_fits(), key)
    with suppress(OSError, KeyError):
        return stored_fits(kept, key)
    found = make_fits(reader, progress=progress)
    with suppress(OSError, InputError):  # it is a cache
        save_fits({key: found}, kept)
    return found


def key_of(reader: Reader | None) -> str:
    """Changes with the texts, the members and the reader."""
    texts = [(t.prompt, t.response, t.text_class, t.language) for t in refusal_texts()]
    told = [VERSION, PROBE_C, STACK_C, Phrases().version, Classifier().version, texts]
    told.append(reader.fingerprint if reader else None)
    return hashlib.sha256(repr(told).encode("utf-8")).hexdigest()[:16]


def make_fits(reader: Reader | None, *, progress: Advance = silent) -> Fits:
    """Fit the probe and the panel to the package's texts; reads each of them once."""
    read = _Texts.read_by(reader, progress)
    odds = log_odds(held_out(read.features, read.classes, read.prompts, len(LEARNED), STACK_C))
    stack = learn(read.features, read.classes, len(LEARNED), STACK_C)
    threshold = best_threshold(odds, read.classes)
    if read.states is None or read.probe is None:
        return Fits(stack, threshold)
    probe = learn(read.states, read.classes, len(LEARNED), PROBE_C)
    return Fits(stack, threshold, probe, best_threshold(log_odds(read.probe), read.classes))


def held_out_verdicts(reader: Reader | None) -> pd.DataFrame:
    """What the panel finds in each text if it is fitted without the text's prompt.

    Returns:
        ``prompt, response, kind, language, class, said, refused, probe_log_odds``.
    """
    import pandas as pd

    read = _Texts.read_by(reader, silent)
    logs = held_out(read.features, read.classes, read.prompts, len(LEARNED), STACK_C)
    odds = log_odds(logs)
    refused = odds >= best_threshold(odds, read.classes)
    said = np.where(refused, 0, logs[:, 1:].argmax(axis=1) + 1)
    return pd.DataFrame(
        {
            "prompt": read.prompts,
            "response": [text.response for text in read.texts],
            "kind": [text.kind for text in read.texts],
            "language": [text.language for text in read.texts],
            "class": [LEARNED[place] for place in read.classes],
            "said": [LEARNED[place] for place in said],
            "refused": refused,
            "probe_log_odds": np.nan if read.probe is None else log_odds(read.probe),
        }
    )


@dataclass(frozen=True)
class _Texts:
    """The package's texts that are not decided by a rule, as the members read them.

    Each text is read by members that were fitted without its prompt. Without a reader, only English
    can be read.
    """

    texts: Sequence[RefusalText]
    classes: Int[np.ndarray, " text"]
    features: Float[np.ndarray, "text feature"]
    states: Float[np.ndarray, "text feature"] | None = None
    probe: Float[np.ndarray, "text class"] | None = None

    @property
    def prompts(self) -> list[str]:
        return [text.prompt for text in self.texts]

    @classmethod
    def read_by(cls, reader: Reader | None, progress: Advance) -> _Texts:
        every = refusal_texts()
        chosen = [
            place
            for place, text in enumerate(every)
            if by_rule(text.prompt, text.response) is None and (reader or text.language == "en")
        ]
        texts = [every[place] for place in chosen]
        prompts, responses = [t.prompt for t in texts], [t.response for t in texts]
        names = ["gibberish" if t.text_class == "other" else t.text_class for t in texts]
        classes = np.array([LEARNED.index(name) for name in names])
        states = probe = None
        if reader is not None:
            states = states_of_texts(reader, progress=progress)[chosen]
            probe = held_out(states, classes, prompts, len(LEARNED), PROBE_C)
        features = stacked(
            Phrases().classify(prompts, responses),
            held_out_log_probabilities(texts),
            probe,
            np.array([text.language == "en" for text in texts]),
        )
        return cls(texts, classes, features, states, probe)


def states_of_texts(
    reader: Reader, *, progress: Advance = silent
) -> Float[np.ndarray, "text feature"]:
    """The reader's states of all texts of the package, kept in the user's cache."""
    texts = refusal_texts()
    told = [reader.fingerprint, [(t.prompt, t.response) for t in texts]]
    key = hashlib.sha256(repr(told).encode("utf-8")).hexdigest()[:16]
    path = user_cache("panel") / f"states-{key}.npy"
    with suppress(OSError, ValueError):
        return np.asarray(np.load(path))
    states = reader.states(
        [t.prompt for t in texts], [t.response for t in texts], progress=progress
    )
    # It is a cache.
    with suppress(OSError, InputError), atomic_write(path) as new, new.open("wb") as file:
        np.save(file, states)
    return states


def best_threshold(odds: Float[np.ndarray, " text"], classes: Int[np.ndarray, " text"]) -> float:
    """The threshold with the highest kappa of refusals against answers.

    Partial refusals and evasions are left out, as in comparisons with people. Of several equally
    good thresholds it is the middle one.
    """
    from sklearn.metrics import roc_curve

    kept = np.isin(classes, [LEARNED.index("full_refusal"), LEARNED.index("answer")])
    is_refusal = classes[kept] == LEARNED.index("full_refusal")
    missed, hits, thresholds = roc_curve(is_refusal, odds[kept], drop_intermediate=False)
    share = is_refusal.mean()
    flagged = share * hits + (1 - share) * missed
    agreed = share * hits + (1 - share) * (1 - missed)
    chance = share * flagged + (1 - share) * (1 - flagged)
    kappa = (agreed - chance) / (1 - chance)
    best = thresholds[np.isclose(kappa, kappa.max())]
    return float(np.median(best))


def decided(
    prompts: Texts,
    responses: Texts,
    rule: Callable[[str, str], str | None],
    read: Callable[[Texts, Texts], Float[np.ndarray, "row class"]],
    threshold: Callable[[], float],
) -> list[str]:
    """Fine classes: by rule where one decides, else by log-probabilities.

    A refusal is what reaches the threshold; everything else gets its most probable other class.

    Args:
        prompts, responses: the answers.
        rule: the class that needs no reading, else None.
        read: gives log-probabilities of ``LEARNED``; it is asked for the others only.
        threshold: log-odds of a refusal; asked only if there are others.
    """
    found = [rule(*pair) for pair in zip(prompts, responses, strict=True)]
    undecided = [place for place, name in enumerate(found) if name is None]
    if undecided:
        logs = read([prompts[i] for i in undecided], [responses[i] for i in undecided])
        refuses = log_odds(logs) >= threshold()
        others = logs[:, 1:].argmax(axis=1) + 1
        for place, is_refusal, other in zip(undecided, refuses, others, strict=True):
            found[place] = LEARNED[0 if is_refusal else other]
    return [name for name in found if name is not None]


def save_fits(fits: Mapping[str, Fits], path: Path) -> None:
    """Write fits by their keys.

    Raises:
        InputError: the file cannot be written.
    """
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    for key, one in fits.items():
        arrays |= {f"{key}.stack.weight": one.stack.weight, f"{key}.stack.bias": one.stack.bias}
        arrays[f"{key}.thresholds"] = np.array([one.threshold, one.probe_threshold])
        if one.probe is not None:
            arrays |= {f"{key}.probe.weight": one.probe.weight, f"{key}.probe.bias": one.probe.bias}
    with atomic_write(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)


def shipped_fits() -> Path:
    """The file of the fits that come with the package."""
    return Path(str(files("unlearning.scoring") / SHIPPED))


def stored_fits(path: Path, key: str) -> Fits:
    """The fits of a key.

    Raises:
        OSError: there is no such file, or it is torn.
        KeyError: it has no fits of this key.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    threshold, probe_threshold = map(float, arrays[f"{key}.thresholds"])
    stack, probe = (
        LinearClasses(arrays[f"{key}.{name}.weight"], arrays[f"{key}.{name}.bias"])
        if f"{key}.{name}.weight" in arrays
        else None
        for name in ("stack", "probe")
    )
    if stack is None:
        raise KeyError(key)
    return Fits(stack, threshold, probe, probe_threshold)
