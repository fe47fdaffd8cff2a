from .people import LABELLED_SETS as LABELLED_SETS
from .people import LabelledSet as LabelledSet
from .people import labelled_set as labelled_set
from .people import read_answers as read_answers
from .prompts import DOMAINS as DOMAINS
from .prompts import MATCHED_PAIRS as MATCHED_PAIRS
from .prompts import as_prompts as as_prompts
from .prompts import controls as controls
from .prompts import matched_pairs as matched_pairs
from .prompts import present_domains as present_domains
from .prompts import read_prompts as read_prompts
from .prompts import require_concepts as require_concepts
from .records import Record as Record
from .records import field_of as field_of
from .records import read_records as read_records
from .records import require_characters as require_characters
from .records import require_columns as require_columns
from .records import require_scalars as require_scalars
from .records import without_half_characters as without_half_characters
from .records import write_records as write_records
from .splits import SPLITS as SPLITS
from .splits import near_duplicate_groups as near_duplicate_groups
from .splits import normalised as normalised
from .splits import text_hash as text_hash

__all__ = [
    "DOMAINS",
    "LABELLED_SETS",
    "MATCHED_PAIRS",
    "SPLITS",
    "LabelledSet",
    "Record",
    "as_prompts",
    "controls",
    "field_of",
    "labelled_set",
    "matched_pairs",
    "near_duplicate_groups",
    "normalised",
    "present_domains",
    "read_answers",
    "read_prompts",
    "read_records",
    "require_characters",
    "require_columns",
    "require_concepts",
    "require_scalars",
    "text_hash",
    "without_half_characters",
    "write_records",
]
