from .command import report as report
from .page import inlined as inlined
from .page import write_page as write_page
from .run_report import write_report as write_report
from .wording import decimal as decimal
from .wording import interval as interval
from .wording import significant as significant

__all__ = ["decimal", "inlined", "interval", "report", "significant", "write_page", "write_report"]
