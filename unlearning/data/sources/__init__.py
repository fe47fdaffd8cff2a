"""Public benchmarks, and any other data set, as prompts of the seven domains.

``load("xstest")`` fetches a benchmark, ``load("xstest", "file.csv")`` reads it from a file;
``mappings_table()`` shows every mapping with its licence; ``read_sources("mine.toml")`` adds
others.
"""

from unlearning.data.sources.definitions import (
    BUILT_IN,
    SOURCES,
    find_source,
    mappings_table,
    read_sources,
    source_from_options,
)
from unlearning.data.sources.loading import Loaded, combined, load, load_named
from unlearning.data.sources.overlap import Deduplicated, deduplicated, leaks
from unlearning.data.sources.schema import Above, Source, Values

__all__ = [
    "BUILT_IN",
    "SOURCES",
    "Above",
    "Deduplicated",
    "Loaded",
    "Source",
    "Values",
    "combined",
    "deduplicated",
    "find_source",
    "leaks",
    "load",
    "load_named",
    "mappings_table",
    "read_sources",
    "source_from_options",
]
