"""``spillover prompts``: public benchmarks, the built-in pairs and your own data as one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import Command, flattened, opt
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.data.sources import Source

app = typer.Typer(
    help="Make a prompts file from public benchmarks and your own data, or find leaks in one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

SHOWN_LEAKS = 10

Definitions = Annotated[
    Path | None,
    typer.Option("--sources", help="TOML file that describes your own sources (default: none)."),
]


@dataclass(frozen=True)
class MappingOptions:
    """Options that describe an unknown data set on the command line."""

    own: str | None = opt(
        None,
        "Your own data set: hub id, address or file, read with the options below (default: none).",
    )
    prompt_column: list[str] | None = opt(
        None, "Column with the prompt; several are joined (with --own, required)."
    )
    domain: str | None = opt(
        None, "Domain of all rows (default: from --category-column and --map)."
    )
    category_column: str | None = opt(
        None, "Column with the category that --map maps (default: none)."
    )
    map: list[str] | None = opt(
        None, "Domain of one category; may be repeated.", metavar="CATEGORY=DOMAIN"
    )
    leave_out: list[str] | None = opt(
        None, "Category to leave out, with the reason; may be repeated.", metavar="CATEGORY=WHY"
    )
    label: str | None = opt(
        None, "Label of all rows: harmful or benign (default: from --label-column and --label-map)."
    )
    label_column: str | None = opt(
        None, "Column with the label that --label-map maps (default: none)."
    )
    label_map: list[str] | None = opt(
        None, "Label of one value; may be repeated.", metavar="VALUE=LABEL"
    )
    only: list[str] | None = opt(
        None,
        "Use only rows with this value; may be repeated (default: all rows).",
        metavar="COLUMN=VALUE",
    )
    hub_split: str = opt("train", "Split of a hub data set.")
    hub_config: str | None = opt(None, "Configuration of a hub data set (default: its own).")

    def source(self) -> Source | None:
        """The source that the options describe, if any."""
        from unlearning.data.sources import source_from_options

        if self.own is None:
            return None
        if not self.prompt_column:
            raise InputError("--own needs --prompt-column, the name of the column with the prompt")
        return source_from_options(
            self.own,
            self.prompt_column,
            domain=self.domain,
            category=self.category_column,
            domains=self.map or (),
            left_out=self.leave_out or (),
            label=self.label,
            label_column=self.label_column,
            labels=self.label_map or (),
            only=self.only or (),
            split=self.hub_split,
            config=self.hub_config,
        )


@app.command("list", cls=Command)
@flattened
def list_sources(
    name: Annotated[
        str | None,
        typer.Argument(help="Source to show with its whole mapping (default: list all)."),
    ] = None,
    sources: Definitions = None,
) -> None:
    """List known sources and licences, or show how one source is mapped to the domains."""
    from unlearning.data.sources import find_source, mappings_table

    known = _known(sources)
    if name is None:
        for source in known.values():
            typer.echo(f"{source.name}: {source.licence}; {', '.join(source.domains)}")
        return
    [row] = mappings_table([find_source(name, known)]).to_dict("records")
    for what, text in row.items():
        for number, part in enumerate(str(text).split(" | ")):
            typer.echo(f"{'' if number else str(what).replace('_', ' '):<10} {part}")


@app.command(cls=Command)
@flattened
def make(
    mapping: MappingOptions,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sources, preferred ones first: NAME (from the hub), NAME=FILE, or built-in "
            "(default: --own alone)."
        ),
    ] = None,
    out: Path = opt(
        Path("runs/prompts-NAMES.jsonl"), "JSONL file, for --prompts of the other commands."
    ),
    sources: Definitions = None,
    apart_from: Path | None = opt(
        None, "Prompts file whose near-duplicates are dropped (default: none)."
    ),
    keep_duplicates: bool = opt(False, "Keep prompts that several sources share."),
) -> None:
    """Load sources, drop duplicates, assign splits and write one prompts file."""
    from unlearning.data import as_prompts, read_prompts, write_records
    from unlearning.data.sources import combined, deduplicated, leaks, load, load_named

    known = _known(sources)
    parts = [load_named(name, known) for name in names or ()]
    own = mapping.source()
    parts += [] if own is None else [load(own)]
    if not parts:
        raise InputError("no sources: name some (`spillover prompts list`), or give --own")
    everything = combined(parts)
    typer.echo(everything, err=True)
    table = everything.prompts
    if not keep_duplicates:
        kept = deduplicated(table)
        table = kept.prompts
        for (source, reason), rows in kept.dropped.groupby(["source", "reason"]):
            typer.echo(f"{len(rows)} rows of {source} dropped: {reason}", err=True)
    if apart_from is not None:
        shared = leaks(read_prompts(apart_from, required_labels=()), table)
        table = table[~table["id"].isin(set(shared["evaluation_id"]))]
        typer.echo(f"{shared['evaluation_id'].nunique()} dropped: in {apart_from} too", err=True)
    prompts = as_prompts(table.reset_index(drop=True), "what is left", required_labels=())
    rows = prompts.astype(object).where(prompts.notna(), None)
    write_records(rows.to_dict("records"), out)
    typer.echo(f"{out}: {len(prompts)} prompts")
    typer.echo(_counts(prompts))


@app.command("leaks", cls=Command)
@flattened
def show_leaks(
    training: Annotated[
        Path, typer.Argument(help="Prompts file of the training, or one file with splits.")
    ],
    evaluation: Annotated[
        Path | None,
        typer.Argument(
            help="Prompts file of the evaluation (default: the other splits of the first file)."
        ),
    ] = None,
) -> None:
    """Find evaluation prompts that are near-duplicates of training prompts (exit code 1 if any)."""
    from unlearning.data import read_prompts
    from unlearning.data.sources import leaks

    seen = read_prompts(training, required_labels=())
    if evaluation is None:
        seen, asked = seen[seen["split"] == "train"], seen[seen["split"] != "train"]
    else:
        asked = read_prompts(evaluation, required_labels=())
    found = leaks(seen, asked)
    leaked = found["evaluation_id"].nunique()
    typer.echo(f"{leaked} of {len(asked)} evaluation prompts are near-duplicates of training ones")
    for row in found.head(SHOWN_LEAKS).itertuples():
        typer.echo(f"  {row.similarity:.2f}  {row.train_prompt!r} ~ {row.evaluation_prompt!r}")
    if len(found) > SHOWN_LEAKS:
        typer.echo(f"  ... and {len(found) - SHOWN_LEAKS} more pairs")
    if leaked:
        raise typer.Exit(1)


def _known(definitions: Path | None) -> dict[str, Source]:
    from unlearning.data.sources import SOURCES, read_sources

    return {**SOURCES, **(read_sources(definitions) if definitions else {})}


def _counts(prompts: pd.DataFrame) -> str:
    """Numbers of prompts by domain, label and split."""
    import pandas as pd

    return pd.crosstab(prompts["domain"], [prompts["label"], prompts["split"]]).to_string()
