from .checkpoint import load_world as load_world
from .checkpoint import shipped as shipped
from .checkpoint import train as train
from .grammar import Grammar as Grammar
from .lessons import table_lessons as table_lessons
from .training import teach as teach
from .world import World as World

__all__ = ["Grammar", "World", "load_world", "shipped", "table_lessons", "teach", "train"]
