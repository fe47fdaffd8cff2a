"""The built-in prompts: harmful requests with benign twins of the same syntax and length.

A direction or a probe fitted on harmful against harmless prompts may find the sort of text rather
than the harm: questions against commands, short against long. Here each harmful request stands
beside a twin that differs only in the words that make it harmful, so neither template nor length
tells the two apart (``docs/prompts.md`` has the measured figures). Topic words still may.

Written for this package; no prompt comes from a benchmark, and there are no answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unlearning.data.prompts import read_prompts

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).with_name("matched_pairs.jsonl")


def matched_pairs() -> pd.DataFrame:
    """The prompts table of all seven domains, and everyday prompts of the domain ``general``.

    46 pairs a domain, a row for the harmful request and a row for its twin (``kind`` is ``twin``),
    which share the id in the column ``pair``; 64 ``general`` rows, where ``pair`` is null. Splits
    are fixed in the file, about 60% train, 20% validation and 20% test of each domain, with twins
    together and no near-duplicates across. ``source`` is ``spillover`` throughout.
    """
    return read_prompts(FILE)
