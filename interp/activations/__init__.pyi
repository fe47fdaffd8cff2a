from .collection import Activations as Activations
from .collection import batches_by_length as batches_by_length
from .collection import chosen_layers as chosen_layers
from .collection import collect as collect
from .collection import listed_layers as listed_layers
from .massive import MassiveActivations as MassiveActivations
from .massive import StreamNorms as StreamNorms
from .massive import is_massive as is_massive
from .massive import massive_activations as massive_activations
from .massive import stream_norms as stream_norms
from .positions import Positions as Positions
from .positions import instruction_and_last as instruction_and_last
from .positions import last_instruction_token as last_instruction_token
from .positions import last_of as last_of
from .positions import post_instruction as post_instruction
from .sites import ATTENTION_OUT as ATTENTION_OUT
from .sites import HEADS as HEADS
from .sites import MLP_OUT as MLP_OUT
from .sites import RESIDUAL_IN as RESIDUAL_IN
from .sites import RESIDUAL_OUT as RESIDUAL_OUT
from .sites import SITES as SITES
from .sites import Block as Block
from .sites import Site as Site
from .sites import blocks as blocks
from .sites import head_count as head_count
from .sites import points as points
from .window import Columns as Columns
from .window import Window as Window
from .window import first_token as first_token
from .window import last_prompt_token as last_prompt_token
from .window import selecting as selecting

__all__ = [
    "ATTENTION_OUT",
    "HEADS",
    "MLP_OUT",
    "RESIDUAL_IN",
    "RESIDUAL_OUT",
    "SITES",
    "Activations",
    "Block",
    "Columns",
    "MassiveActivations",
    "Positions",
    "Site",
    "StreamNorms",
    "Window",
    "batches_by_length",
    "blocks",
    "chosen_layers",
    "collect",
    "first_token",
    "head_count",
    "instruction_and_last",
    "is_massive",
    "last_instruction_token",
    "last_of",
    "last_prompt_token",
    "listed_layers",
    "massive_activations",
    "points",
    "post_instruction",
    "selecting",
    "stream_norms",
]
