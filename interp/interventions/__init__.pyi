from .steering import ablate as ablate
from .steering import add as add
from .steering import set_component as set_component
from .weight_ablation import orthogonalise as orthogonalise
