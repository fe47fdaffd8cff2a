from .explaining import sentence as sentence
from .figures import causes_figure as causes_figure
from .mediation import Subject as Subject
from .mediation import explain as explain
from .mediation import shares_table as shares_table

__all__ = ["Subject", "causes_figure", "explain", "sentence", "shares_table"]
