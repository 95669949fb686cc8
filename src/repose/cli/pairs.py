"""`repose data pair`: pairs by substitution from relaxed crystals."""

from __future__ import annotations

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
    wrong_usage,
)
from repose.cli.importing import accepted, counted, finish_import, stepped, summarise_import, write_accepted

if TYPE_CHECKING:
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

    from repose.data.dataset import DatasetInfo, check_target
    from repose.data.importers.relaxed import read_relaxed
    from repose.data.importers.substitutions import PARENTS_DESCRIPTION, substitution_pairs
    from repose.data.splits import BY_SOURCE, SOURCE_DESCRIPTION, parse_split
    from repose.errors import require

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
        splits=f"{how}; {PARENTS_DESCRIPTION}",
    )
    refused: list[Refusal] = []
    with Progress(len(source), "crystals", quiet, unit="source") as progress:
        relaxed = accepted(counted(read_relaxed(stepped(source, progress)), progress), refused)
        pairs = substitution_pairs(
            relaxed, assign, np.random.default_rng(seed), per_crystal=per_crystal, similar=similar
        )
        dataset = write_accepted(out, info, accepted(pairs, refused), refused)
    finish_import(out, summarise_import(dataset, split_by, assign), refused, quiet, as_json)
