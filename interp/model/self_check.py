"""The result of a model's self-check; :mod:`interp.model.checks` measures it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from interp.errors import ModelError

#: Increase this if the same fields can mean something else than before.
SCHEMA = 3

Rows = Literal["padded", "equal", "single"]
"""What one batch may hold: rows of any length, of equal length, or one row."""

_BATCHES: Mapping[Rows, str] = {
    "padded": "rows of any length share a batch",
    "equal": "only prompts of equal length share a batch",
    "single": "each prompt is run alone",
}


@dataclass(frozen=True)
class SelfCheck:
    """What a model's self-check found.

    Attributes:
        stream: why nothing can read or edit the residual stream; empty if all is well.
        causal: whether the logits of a token stay the same whatever follows it.
        rows: rows that one forward may hold.
        decoding: rows that one batch of generation may hold.
        cache: whether generation with a cache equals the forward.
        generates: whether generation equals the forward at all.
        last_logits: whether ``logits_to_keep`` can be used.
        bypassed: layers after which the states do not determine the logits.
        differences: the largest relative difference of each comparison.
        limit: the difference above which a comparison fails.
        measured: False for a model without weights here, of which nothing is measured.
    """

    stream: str = ""
    causal: bool = True
    rows: Rows = "padded"
    decoding: Rows = "padded"
    cache: bool = True
    generates: bool = True
    last_logits: bool = True
    bypassed: tuple[int, ...] = ()
    differences: Mapping[str, float] = field(default_factory=dict)
    limit: float = 0.0
    measured: bool = True

    def together(self, lengths: Sequence[int], *, decoding: bool = False) -> list[int]:
        """A number for each row, by its length; only rows of one number may share a batch."""
        kind = self.decoding if decoding else self.rows
        if kind == "padded":
            return [0] * len(lengths)
        return list(lengths) if kind == "equal" else list(range(len(lengths)))

    def keeping(self, columns: int) -> dict[str, int]:
        """The argument of the model's forward that asks for the last logits, where it can."""
        return {"logits_to_keep": columns} if self.last_logits else {}

    def require_stream(self, name: str) -> None:
        """Raise :class:`ModelError` if the model has no residual stream that can be read."""
        if self.stream:
            raise ModelError(
                f"{name} has no residual stream to read or edit: {self.stream}. Generation and "
                "scores of answers work without one"
            )

    def lines(self) -> tuple[str, ...]:
        """What does not hold, and what is done about it; nothing if all is well."""
        if not self.measured:
            return ("not checked, because the model has no weights here",)
        found = [f"no residual stream to read or edit: {self.stream}"] if self.stream else []
        if not self.causal:
            found.append(
                f"later tokens change earlier logits{self._by('later')}: training, coherence and "
                "the prefixes of whole answers see what generation does not"
            )
        if self.rows != "padded":
            found.append(f"padding changes results{self._by('padding')}: {_BATCHES[self.rows]}")
        if not self.generates:
            found.append("generation differs from the forward, even of one prompt without a cache")
        elif self.decoding != self.rows:
            found.append(f"generation in larger batches differs: {_BATCHES[self.decoding]} there")
        if self.generates and not self.cache:
            found.append("generation with a cache differs from the forward: it runs without one")
        if self.bypassed:
            found.append(f"{self.bypass}: edits at a layer do not act on it")
        return tuple(found)

    @property
    def bypass(self) -> str:
        """What passes by the states after a layer; empty if nothing does."""
        if not self.bypassed:
            return ""
        where = f"after layer {self.bypassed[0]}{self._by('bypass')}"
        return f"something bypasses the residual stream ({where})"

    def line(self) -> str:
        """All of it in one line, for plans."""
        return f"self-check: {'; '.join(self.lines()) or 'all is well'}"

    def _by(self, name: str) -> str:
        size = self.differences.get(name, math.inf)
        return f" by {size:.1%} of their size" if math.isfinite(size) else ""

    def to_json(self) -> dict[str, Any]:
        """All fields, for files; JSON has no infinity, so it is ``None`` there."""
        sizes = {k: v if math.isfinite(v) else None for k, v in self.differences.items()}
        return {"schema": SCHEMA, **asdict(self), "differences": sizes}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SelfCheck:
        """The inverse of :meth:`to_json`."""
        given = {name: value for name, value in values.items() if name != "schema"}
        sizes = {k: math.inf if v is None else v for k, v in given["differences"].items()}
        return cls(**{**given, "bypassed": tuple(given["bypassed"]), "differences": sizes})


AS_EXPECTED = SelfCheck()
"""The self-check of a model of which everything holds."""
