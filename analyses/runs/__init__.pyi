from .arms import BASE as BASE
from .arms import Arm as Arm
from .arms import Headline as Headline
from .arms import RunRecord as RunRecord
from .arms import after_of as after_of
from .arms import base_of as base_of
from .arms import headlines as headlines
from .arms import objective_title as objective_title
from .arms import read_run as read_run
from .arms import weight_label as weight_label
from .arms import weights_of as weights_of
from .behaviours import FEWEST_ANSWERS as FEWEST_ANSWERS
from .behaviours import MOST_GIBBERISH as MOST_GIBBERISH
from .behaviours import PREFILLED as PREFILLED
from .behaviours import WEAKLY_ALIGNED as WEAKLY_ALIGNED
from .behaviours import TargetOutcome as TargetOutcome
from .behaviours import TargetVerdict as TargetVerdict
from .behaviours import behaviour as behaviour
from .behaviours import estimate_of as estimate_of
from .behaviours import pick as pick
from .behaviours import rows_of as rows_of
from .behaviours import verdict_on as verdict_on
from .cells import TESTED as TESTED
from .cells import counted_arms as counted_arms
from .cells import require_quantity as require_quantity
from .cells import seed_spread as seed_spread
from .decomposition import SHARE_KEYS as SHARE_KEYS
from .decomposition import Decomposition as Decomposition
from .decomposition import decompose as decompose
from .decomposition import over_worlds as over_worlds
from .degenerate import CoherenceBounds as CoherenceBounds
from .extractions import EXTRACTIONS as EXTRACTIONS
from .extractions import extraction_angles as extraction_angles
from .extractions import extraction_table as extraction_table
from .folder import PROMPT_FORECAST as PROMPT_FORECAST
from .folder import Inputs as Inputs
from .folder import RunFolder as RunFolder
from .folder import kept_table as kept_table
from .folder import seconds_of as seconds_of
from .folder import update_config as update_config
from .folder import write_manifest as write_manifest
from .harm import HARM as HARM
from .harm import REFUSAL as REFUSAL
from .harm import Reads as Reads
from .harm import harm_and_refusal_table as harm_and_refusal_table
from .leakage import LOW_BASE as LOW_BASE
from .leakage import ONSET_AT as ONSET_AT
from .leakage import UNTOUCHED_WITHIN as UNTOUCHED_WITHIN
from .leakage import ArmLeakage as ArmLeakage
from .leakage import at_crossing as at_crossing
from .leakage import kept_rows as kept_rows
from .leakage import matched_step as matched_step
from .leakage import measure as measure
from .leakage import relative_drop as relative_drop
from .leakage import running_maximum as running_maximum
from .leakage import trajectories as trajectories
from .leakage_matrix import LeakageMatrix as LeakageMatrix
from .progress import Progress as Progress
from .recovery import LEAST_LEAKAGE as LEAST_LEAKAGE
from .recovery import recover as recover
from .rotation_tables import against_control_arms as against_control_arms
from .rotation_tables import contrast_rows as contrast_rows
from .rotation_tables import contrasts as contrasts
from .rotation_tables import cosine_table as cosine_table
from .rotation_tables import rotation_table as rotation_table
from .rotation_tables import rotations as rotations
from .rotation_tables import write_directions as write_directions
from .tables import RECOVERY_SETS as RECOVERY_SETS
from .tables import Run as Run

__all__ = [
    "BASE",
    "EXTRACTIONS",
    "FEWEST_ANSWERS",
    "HARM",
    "LEAST_LEAKAGE",
    "LOW_BASE",
    "MOST_GIBBERISH",
    "ONSET_AT",
    "PREFILLED",
    "PROMPT_FORECAST",
    "RECOVERY_SETS",
    "REFUSAL",
    "SHARE_KEYS",
    "TESTED",
    "UNTOUCHED_WITHIN",
    "WEAKLY_ALIGNED",
    "Arm",
    "ArmLeakage",
    "CoherenceBounds",
    "Decomposition",
    "Headline",
    "Inputs",
    "LeakageMatrix",
    "Progress",
    "Reads",
    "Run",
    "RunFolder",
    "RunRecord",
    "TargetOutcome",
    "TargetVerdict",
    "after_of",
    "against_control_arms",
    "at_crossing",
    "base_of",
    "behaviour",
    "contrast_rows",
    "contrasts",
    "cosine_table",
    "counted_arms",
    "decompose",
    "estimate_of",
    "extraction_angles",
    "extraction_table",
    "harm_and_refusal_table",
    "headlines",
    "kept_rows",
    "kept_table",
    "matched_step",
    "measure",
    "objective_title",
    "over_worlds",
    "pick",
    "read_run",
    "recover",
    "relative_drop",
    "require_quantity",
    "rotation_table",
    "rotations",
    "rows_of",
    "running_maximum",
    "seconds_of",
    "seed_spread",
    "trajectories",
    "update_config",
    "verdict_on",
    "weight_label",
    "weights_of",
    "write_directions",
    "write_manifest",
]
