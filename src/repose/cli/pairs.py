"""`repose data pair`: pairs by substitution from relaxed crystals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repose.cli.common import Json, NoDevice, Progress, Quiet, fail, wrong_usage
from repose.cli.importing import REFUSED, Plan, finish_import, print_faults, report_of, write_refused

if TYPE_CHECKING:
    from repose.data.dataset import Pair
    from repose.data.pairing import Refusal


def pair(
    source: Annotated[
        list[Path],
        typer.Argument(
            help="Relaxed crystals: tables (.csv, .csv.gz) with id and cif, datasets, files or folders.",
            exists=True,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the dataset; an older dataset is replaced.")],
    per_crystal: Annotated[
        int, typer.Option(min=1, help="Inputs of every crystal, as far as there are.")
    ] = 1,
    similar: Annotated[
        bool,
        typer.Option(
            "--similar/--any",
            help="Start from the relatives of fewest other, and chemically nearest, elements; or from any.",
        ),
    ] = True,
    name: Annotated[str, typer.Option(help="What to call it; the directory's name if not given.")] = "",
    licence: Annotated[str, typer.Option(help="Under which it may be used.")] = "",
    calculator: Annotated[str, typer.Option(help="Calculator or functional of the relaxed crystals.")] = "",
    split_by: Annotated[
        str,
        typer.Option(help="chemical-system, the name of a tag, or source (the source's own split)."),
    ] = "chemical-system",
    fractions: Annotated[
        str, typer.Option(help="Shares of train, val and test among the groups.")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Another seed gives another split, and other parents.")] = 0,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make pairs by substitution: inputs are other crystals of the same structure type, elements replaced.

    Crystals that have no relative to start from are refused with the reason, and listed in DIR/refused.csv;
    the exit status is then 1, and all others are in the dataset. Relatives are those of the train split, for
    val and test, too, so that no tested crystal is an input in training.

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
        # Nothing but refusals: no dataset is made of them.
        print_faults("refused", refused)
        fail(str(error))
        raise typer.Exit(1) from None
    plan = Plan([], out, split_by, assign)
    finish_import(plan, report_of(dataset, split_by, assign), refused, quiet, as_json)
