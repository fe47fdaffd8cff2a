from .command import report as report
from .gate_line import GATE_FILE as GATE_FILE
from .gate_line import weights_of_run as weights_of_run
from .page import inlined as inlined
from .page import write_page as write_page
from .run_report import write_report as write_report
from .wording import decimal as decimal
from .wording import interval as interval
from .wording import significant as significant

__all__ = [
    "GATE_FILE",
    "decimal",
    "inlined",
    "interval",
    "report",
    "significant",
    "weights_of_run",
    "write_page",
    "write_report",
]
