from .command import UtilityOptions as UtilityOptions
from .command import evaluate as evaluate
from .estimates import separation as separation
from .findings import refused_by as refused_by
from .panels import Series as Series
from .panels import dot_panel as dot_panel
from .plan import TaskPlan as TaskPlan
from .utility import task_scores as task_scores
