"""The package's containment methods; none uses a held-out domain.

Most train on retained examples in addition to the forget set and differ in the choice of examples
(:mod:`.examples`). Others change the settings (:mod:`.settings`) or the optimizer step
(:mod:`.guards`).
"""

from analyses.study import METHODS, Containment, Method, method

METHODS.open_room(__name__)

__all__ = ["METHODS", "Containment", "Method", "method"]
