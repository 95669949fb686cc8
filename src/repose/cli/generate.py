"""`repose data generate`: candidates, i.e. unrelaxed crystals for a calculator to relax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repose.cli.common import Json, NoDevice, Progress, Quiet, fail, wrong_usage
from repose.cli.importing import print_faults, to_json
from repose.cli.settings import Assignments, ConfigFile, read_settings, settings_command

if TYPE_CHECKING:
    from repose.data.candidates import Candidate
    from repose.data.pairing import Refusal

Paths = list[Path] | None
GenerateCommand = settings_command("repose.data.generate.settings:GenerateSettings")


def generate(
    preset: Annotated[
        str, typer.Option(help="bulk, subst, near, xmno, perovskites, sheets, layered or defects.")
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of candidates.")],
    out: Annotated[Path, typer.Option(help="Folder of the candidates; older ones are replaced.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    parents: Annotated[
        Paths, typer.Option(help="Dataset, candidates or files to start from; repeatable.", exists=True)
    ] = None,
    prototypes: Annotated[
        Paths, typer.Option(help="Further structures to decorate with elements; repeatable.", exists=True)
    ] = None,
    exclude: Annotated[
        Paths,
        typer.Option(help="Dataset, candidates or files with crystals to avoid; repeatable.", exists=True),
    ] = None,
    volumes: Annotated[
        Paths,
        typer.Option(help="Relaxed crystals to estimate volumes from, instead of the table.", exists=True),
    ] = None,
    elements: Annotated[
        str, typer.Option(help="Elements to draw from, e.g. Li,Fe,P,O; all if not given.", show_default=False)
    ] = "",
    max_atoms: Annotated[
        int | None, typer.Option(help="Most atoms in a cell; the preset's own if not given.")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make unrelaxed crystals by substituting elements.

    Elements are put into prototypes or into relaxed crystals. Volumes are unbiased estimates. No two
    candidates are equal. The same preset and seed give the same candidates, and a larger set begins with a
    smaller one. Relax them with `repose data label`. The exit status is 1 if a crystal of the given files
    cannot be read, or if fewer candidates than `--n` are found.

    Example: repose data generate --preset bulk --n 1000 --out candidates/bulk
    """
    del device
    from repose.data.candidates import CandidatesInfo, check_directory, write_candidates
    from repose.data.generate import presets
    from repose.data.generate.settings import GenerateSettings

    rejected: Counter[str] = Counter()
    refused: list[Refusal] = []
    names = [name.strip() for name in elements.split(",")] if elements else None
    options = {"elements": names, "max_atoms": max_atoms}
    files = {"parents": parents, "prototypes": prototypes, "exclude": exclude, "volumes": volumes}
    with wrong_usage():
        settings = read_settings(GenerateSettings, config, assignments, options)
        check_directory(out)
        made = presets.generate(
            preset,
            n,
            seed,
            parents=parents or (),
            prototypes=prototypes or (),
            exclude=exclude or (),
            settings=settings,
            volumes=presets.volumes_of(volumes, refused) if volumes else None,
            rejected=rejected,
            refused=refused,
        )
        named = {key: [path.name for path in paths] for key, paths in files.items() if paths}
        info = CandidatesInfo(
            preset=preset,
            seed=seed,
            settings=settings.model_dump(mode="json", exclude_unset=True) | named,
            source=", ".join(path.name for path in [*(parents or ()), *(prototypes or ())]),
            licence="; ".join(presets.licences([*(parents or ()), *(prototypes or ())])),
        )
        info = write_candidates(out, info, _counted(made, n, quiet))
    if as_json:
        faults = [{"id": item.id, "reason": item.reason} for item in refused]
        report = {"candidates": str(out), "count": info.count, "rejected": dict(rejected), "refused": faults}
        typer.echo(to_json(report))
    else:
        if not quiet:
            typer.echo(f"{out}: {info.count} candidates of preset {preset}, seed {seed}")
            thrown = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
            typer.echo(f"rejected and replaced: {thrown or 'none'}")
        print_faults("refused", refused, more="see --json")
    if info.count < n:
        fail(f"found only {info.count} of {n} different candidates; give more parents or elements.")
    if refused or info.count < n:
        raise typer.Exit(1)


def _counted(made: Iterator[Candidate], n: int, quiet: bool) -> Iterator[Candidate]:
    with Progress(n, "candidates", quiet, unit="candidate") as progress:
        for candidate in made:
            progress.advance(1)
            yield candidate
