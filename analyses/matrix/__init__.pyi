from .command import matrix as matrix
from .figures import leakage_matrix_figure as leakage_matrix_figure
from .output import matrix_summary as matrix_summary
from .output import write_matrix as write_matrix
