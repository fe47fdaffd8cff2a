from .command import report as report
from .gate_line import GATE_FILE as GATE_FILE
from .gate_line import require_gate_folder as require_gate_folder
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
    "require_gate_folder",
    "significant",
    "write_page",
    "write_report",
]
