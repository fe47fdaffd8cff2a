"""Whether ``torchrun`` or ``accelerate launch`` started several processes of this command."""

from __future__ import annotations

import os

from interp.errors import InputError


def processes() -> int:
    """The number of processes of this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this process runs the command; the others only train with it."""
    return int(os.environ.get("RANK", "0")) == 0


def refuse_launcher() -> None:
    """Refuse several processes in front of a command that has no use for them.

    Raises:
        InputError: a launcher started several processes.
    """
    if processes() > 1:
        raise InputError(
            "this command runs in one process; give --workers for several arms at a time. study, "
            "unlearn and matrix train an arm in several processes: see docs/how-to/distributed.md"
        )
