"""The one exception tree.

Every message names what was wrong, what was expected and what to do about it. The command line
turns an :class:`InputError` into one line and exit code 2; everything else is a bug or a failure
of the machine, and keeps its traceback.
"""


class SpilloverError(Exception):
    """Anything that this package raises on purpose."""


class InputError(SpilloverError):
    """What the user gave cannot be used as it is."""


class ModelError(InputError):
    """A model, tokenizer or chat template cannot be loaded or does not fit."""


class TrainingError(SpilloverError):
    """Training could not go on, for instance because the loss is not finite."""


class MachineError(SpilloverError):
    """The machine ran out of something: memory, or room on the disk."""
