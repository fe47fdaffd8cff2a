from .page import inlined as inlined
from .page import rendered as rendered
from .wording import decimal as decimal
from .wording import estimate_of as estimate_of
from .wording import interval as interval
from .wording import significant as significant

__all__ = ["decimal", "estimate_of", "inlined", "interval", "rendered", "significant"]
