"""`repose data generate`: candidates for a calculator to relax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repose.cli.common import Json, NoDevice, Progress, Quiet, fail

if TYPE_CHECKING:
    from repose.data.candidates import Candidate
    from repose.data.pairing import Refusal

# Refusals printed; all of them stand in --json.
PRINTED = 20

Paths = list[Path] | None


def generate(
    preset: Annotated[
        str, typer.Option(help="bulk, subst, near, xmno, perovskites, sheets, layered or defects.")
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="How many; a larger set begins with the smaller one.")],
    out: Annotated[Path, typer.Option(help="Directory of the candidates; older ones are replaced.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other candidates.")] = 0,
    parents: Annotated[
        Paths, typer.Option(help="Dataset, candidates or files to start from; may be repeated.", exists=True)
    ] = None,
    prototypes: Annotated[
        Paths, typer.Option(help="Structures to fill with elements, too; may be repeated.", exists=True)
    ] = None,
    exclude: Annotated[
        Paths,
        typer.Option(
            help="Dataset, candidates or files whose crystals are not made again; may be repeated.",
            exists=True,
        ),
    ] = None,
    volumes: Annotated[
        Paths,
        typer.Option(
            help="Relaxed crystals to guess volumes from, in place of the table that ships.", exists=True
        ),
    ] = None,
    elements: Annotated[str, typer.Option(help="Elements to draw from, e.g. Li,Fe,P,O; all if empty.")] = "",
    max_atoms: Annotated[
        int | None, typer.Option(help="Most atoms in a cell; 12, xmno and perovskites 20 if not given.")
    ] = None,
    volume_spread: Annotated[
        float | None, typer.Option(help="Standard deviation of the logarithm of the volume.")
    ] = None,
    strain: Annotated[float | None, typer.Option(help="Standard deviation of strain components.")] = None,
    rattle: Annotated[
        float | None, typer.Option(help="Largest standard deviation of displacements, in A.")
    ] = None,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make unrelaxed crystals by putting elements into prototypes or into relaxed crystals.

    Volumes are guessed without bias, charges balance in half of the bulk crystals, and no two candidates are
    the same. One preset and seed always give the same candidates. Relax them with `repose data label`.

    The exit status is 1 where a crystal of the given files cannot be read, or where fewer candidates than
    asked for could be made.

    Example: repose data generate --preset bulk --n 1000 --out candidates/bulk
    """
    del device
    from repose.data.candidates import CandidatesInfo, check_directory, write_candidates
    from repose.data.generate import presets
    from repose.errors import ReposeError

    rejected: Counter[str] = Counter()
    refused: list[Refusal] = []
    asked = {
        "elements": [name.strip() for name in elements.split(",")] if elements else None,
        "max_atoms": max_atoms,
        "volume_spread": volume_spread,
        "strain": strain,
        "rattle": rattle,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    files = {"parents": parents, "prototypes": prototypes, "exclude": exclude, "volumes": volumes}
    try:
        check_directory(out)
        made = presets.generate(
            preset,
            n,
            seed,
            parents=parents or (),
            prototypes=prototypes or (),
            exclude=exclude or (),
            settings=presets.GenerateSettings.parse(asked),
            volumes=presets.volumes_of(volumes, refused) if volumes else None,
            rejected=rejected,
            refused=refused,
        )
        info = CandidatesInfo(
            preset=preset,
            seed=seed,
            settings=asked | {key: [path.name for path in paths] for key, paths in files.items() if paths},
            source=", ".join(path.name for path in [*(parents or ()), *(prototypes or ())]),
            licence="; ".join(presets.licences([*(parents or ()), *(prototypes or ())])),
        )
        info = write_candidates(out, info, _counted(made, n, quiet))
    except ReposeError as error:
        fail(str(error))
        raise typer.Exit(2) from None
    if as_json:
        import json

        faults = [{"id": item.id, "reason": item.reason} for item in refused]
        report = {"candidates": str(out), "count": info.count, "rejected": dict(rejected), "refused": faults}
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        if not quiet:
            typer.echo(f"{out}: {info.count} candidates of preset {preset}, seed {seed}")
            thrown = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
            typer.echo(f"thrown away and drawn again: {thrown or 'none'}")
        for item in refused[:PRINTED]:
            typer.echo(f"refused: {item.id}: {item.reason}", err=True)
        if len(refused) > PRINTED:
            typer.echo(f"refused: {len(refused) - PRINTED} more, see --json", err=True)
    if info.count < n:
        fail(f"only {info.count} of {n} candidates that differ could be made; give more parents or elements.")
    if refused or info.count < n:
        raise typer.Exit(1)


def _counted(made: Iterator[Candidate], n: int, quiet: bool) -> Iterator[Candidate]:
    with Progress(n, "candidates", quiet, unit="candidate") as progress:
        for candidate in made:
            progress.count(1)
            progress.step()
            yield candidate
