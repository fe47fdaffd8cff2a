"""The ways to keep an unlearning narrow that come with the package; none sees a held-out domain.

Most train on retained examples next to the forget set and differ in which (:mod:`.examples`);
others change the settings (:mod:`.settings`) or how the step is taken (:mod:`.guards`).
"""

from analyses.study import METHODS, Containment, Method, method

METHODS.open_room(__name__)

__all__ = ["METHODS", "Containment", "Method", "method"]
