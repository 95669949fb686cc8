"""`repose data pair`: pairs by substitution from relaxed crystals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repose.cli.common import (
    Calculator,
    Fractions,
    Json,
    Licence,
    Name,
    NoDevice,
    Progress,
    Quiet,
    Seed,
    fail,
    wrong_usage,
)
from repose.cli.importing import REFUSED, finish_import, print_faults, summarise_import, write_refused

if TYPE_CHECKING:
    from repose.data.dataset import Pair
    from repose.data.pairing import Refusal


def pair(
    source: Annotated[
        list[Path],
        typer.Argument(
            help="Relaxed crystals: tables (.csv, .csv.gz) of id and cif, datasets, files or folders.",
            exists=True,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Dataset folder; an older dataset is replaced.")],
    per_crystal: Annotated[int, typer.Option(min=1, help="Most inputs for each relaxed crystal.")] = 1,
    similar: Annotated[
        bool,
        typer.Option(
            "--similar/--any",
            help="Parents with the fewest and chemically most similar replaced elements, or any parents.",
        ),
    ] = True,
    name: Name = "",
    licence: Licence = "",
    calculator: Calculator = "",
    split_by: Annotated[
        str, typer.Option(help="chemical-system, the name of a tag, or source (its own split).")
    ] = "chemical-system",
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make unrelaxed/relaxed pairs by substitution.

    The input is a parent of the same structure type with replaced elements. Parents are always taken from the
    train split. Crystals without a parent are listed with the reason in OUT/refused.csv; the exit status is
    then 1, and all other crystals are in the dataset.

    Example: repose data pair relaxed.csv.gz --out datasets/substituted --calculator PBE
    """
    del device
    import numpy as np

    from repose.data.dataset import DatasetInfo, check_target, write_dataset
    from repose.data.importers.relaxed import read_relaxed
    from repose.data.importers.substitutions import PARENTS, substitution_pairs
    from repose.data.pairing import Refusal
    from repose.data.splits import BY_SOURCE, SOURCE_DESCRIPTION, parse_split
    from repose.errors import DatasetError, require

    with wrong_usage():
        require("pyarrow", "writing datasets")
        check_target(out)
        assign = None if split_by == BY_SOURCE else parse_split(split_by, fractions, seed)
    how = SOURCE_DESCRIPTION if assign is None else assign.description
    info = DatasetInfo(
        name=name or out.resolve().name,
        source=", ".join(dict.fromkeys(path.name for path in source)),
        licence=licence,
        calculator=calculator,
        splits=f"{how}; {PARENTS}",
    )
    refused: list[Refusal] = []

    def relaxed(progress: Progress) -> Iterator[Pair]:
        def stepped() -> Iterator[Path]:
            for path in source:
                yield path
                progress.step()

        for item in read_relaxed(stepped()):
            progress.count(1)
            if isinstance(item, Refusal):
                refused.append(item)
            else:
                yield item

    def kept() -> Iterator[Pair]:
        with Progress(len(source), "crystals", quiet, unit="source") as progress:
            found = substitution_pairs(
                relaxed(progress),
                assign,
                np.random.default_rng(seed),
                per_crystal=per_crystal,
                similar=similar,
            )
            for item in found:
                if isinstance(item, Refusal):
                    refused.append(item)
                else:
                    yield item

    try:
        dataset = write_dataset(out, info, kept(), finish=lambda new: write_refused(new / REFUSED, refused))
    except DatasetError as error:
        # Every crystal was refused.
        print_faults("refused", refused)
        fail(str(error))
        raise typer.Exit(1) from None
    finish_import(out, summarise_import(dataset, split_by, assign), refused, quiet, as_json)
