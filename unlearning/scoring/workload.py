"""What asking a model about answers will take, said before it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BYTES_A_TOKEN = 4
#: Of a chat template around one message.
TEMPLATE_TOKENS = 10


@dataclass(frozen=True)
class Workload:
    """Calls of a model, and what they read and write.

    Attributes:
        calls: requests to a server, or texts through a local model.
        kept: calls that are not made, as their answers are in the cache.
        read, written: tokens.
        paid: a provider may charge for it.
        notes: what else there is to know before it starts.
    """

    calls: int
    read: int
    written: int = 0
    kept: int = 0
    paid: bool = False
    notes: tuple[str, ...] = ()

    def price(self, read: float, written: float) -> float:
        """In the currency of the two prices, which are per million tokens."""
        return (self.read * read + self.written * written) / 1e6

    def text(self, name: str, prices: tuple[float, float] | None = None) -> str:
        """Lines for the terminal; ``prices`` are per million tokens read and written."""
        what = "requests" if self.paid else "texts through the model"
        line = f"{name}: {self.calls} {what}, about {_thousands(self.read)} tokens read"
        line += f" and {_thousands(self.written)} written" if self.written else ""
        line += f"; {self.kept} more are answered from the cache" if self.kept else ""
        if self.paid and self.calls:
            line += "; " + (
                "for the price, give --price-read and --price-written (per million tokens)"
                if prices is None
                else f"price about {_money(self.price(*prices))}"
            )
        return "\n".join((line, *self.notes))


def estimated_tokens(texts: Iterable[str]) -> int:
    """Tokens of ``texts``: four bytes of UTF-8 each, and what a template puts around a text.

    Near enough for a bill in European languages; tokenizers differ by a third either way.
    """
    sizes = [len(text.encode("utf-8", "replace")) for text in texts]
    return sum(-(-size // BYTES_A_TOKEN) + TEMPLATE_TOKENS for size in sizes)


def _thousands(count: int) -> str:
    return f"{count / 1000:.1f} k" if count >= 1000 else str(count)


def _money(amount: float) -> str:
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.2g}"
