"""Completions that a server gave, kept on disk so that none is paid for twice.

One small file for each, written atomically under a hash of the whole request: processes may share a
folder, and a run that is killed has everything that it was answered. Requests themselves are not
kept. A model that changes behind its name is not noticed: delete the folder to ask again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.store import read_json, write_json


@dataclass(frozen=True)
class Completion:
    """One answer of a server.

    Attributes:
        text: empty where the server gave none.
        finished: the model ended it; False where a limit or a filter did.
        prompt_tokens, completion_tokens: as the server counts them; 0 where it does not say.
    """

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class CompletionCache:
    """A folder of completions by key."""

    folder: Path

    def get(self, key: str) -> Completion | None:
        """What was kept under ``key``; ``None`` if nothing was, or nothing that can be read."""
        try:
            return Completion(**read_json(self._path(key)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def put(self, key: str, completion: Completion) -> None:
        """Keep ``completion``; the last of several writers wins, and every one writes all of it."""
        write_json(self._path(key), asdict(completion))

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def _path(self, key: str) -> Path:
        # Two levels: a folder with a hundred thousand files is slow to list.
        return self.folder / key[:2] / f"{key}.json"


def request_key(address: str, request: Mapping[str, Any]) -> str:
    """A hexadecimal key of everything that an answer depends on.

    Unlike ``interp.store.content_key`` it leaves the package's version out: a new version asks the
    same question, and the old answer has been paid for.
    """
    text = json.dumps([address, request], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def shared_folder() -> Path:
    """``$SPILLOVER_CACHE``, else ``spillover`` in the user's cache folder."""
    given = os.environ.get("SPILLOVER_CACHE")
    if given:
        return Path(given) / "completions"
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "spillover" / "completions"
