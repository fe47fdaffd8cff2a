from .command import explain as explain
from .figures import causes_figure as causes_figure
from .mediation import Subject as Subject
from .mediation import explain_domain as explain_domain
from .mediation import shares_table as shares_table
from .sentences import cause_sentence as cause_sentence
