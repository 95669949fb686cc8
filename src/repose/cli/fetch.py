"""`repose data fetch`: download, check and import public archives."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from repose.cli.common import Json, NoDevice, Progress, Quiet, console, fail, wrong_usage
from repose.cli.importing import finish_import, plan_import, run_import, to_json

if TYPE_CHECKING:
    from repose.data.archives.registry import Archive, ArchiveFile

MEGABYTE = 1_000_000


def fetch(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of the archive; without it, list the archives.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Dataset folder; datasets/NAME if not given. An older dataset is replaced.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of downloads, with a folder NAME in it; the user's cache if not given.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[str, typer.Option(help="Another address of the file.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the downloaded file after the import.")] = False,
    align: Annotated[
        bool, typer.Option(help="Rotate relaxed crystals back to the orientation of the input.")
    ] = True,
    every: Annotated[
        bool, typer.Option("--all", help="Also import crystals that the authors leave out.")
    ] = False,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Download and import a public archive, or list the archives.

    Size, licence and record are shown before a question; without a terminal, answer it with `--yes`. Run the
    command again to continue an interrupted download. Without a network, save the file at the place that the
    message names, and run the command again. The exit status is 1 if the download failed or crystals were
    refused.

    Example: repose data fetch xmno --out datasets/xmno
    """
    del device
    if name is None:
        _list(as_json)
        return
    from repose.data.archives.download import check_url, verify
    from repose.data.archives.registry import default_cache, find_archive
    from repose.data.archives.unpack import folders_to_import, unpack
    from repose.data.dataset import DatasetInfo, check_target
    from repose.errors import require

    with wrong_usage():
        require("pyarrow", "writing datasets")
        require("requests", "downloading archives")
        archive = find_archive(name)
        if url:
            check_url(url)
        out = out or Path("datasets") / name
        check_target(out)
    folder = (cache or default_cache()) / name
    with _failed_import():
        archive, complete = _with_files(archive, folder, url)
        missing = [file for file in archive.files if not (folder / file.name).is_file()]
        if not (quiet and yes):
            _describe(archive, complete, missing, folder, out, err=as_json or quiet)
        for file in archive.files:
            if file not in missing:  # perhaps saved by hand
                verify(folder / file.name, size=file.size, checksum=file.checksum)
        if missing:
            _ask(yes)
            for file in missing:
                _download(archive, file, folder, quiet)
        unpacked = folder / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)  # from an interrupted run
        try:
            for file in archive.files:
                unpack(folder / file.name, unpacked, archive.unpacked)
            folders = folders_to_import(unpacked, archive)
            plan = plan_import(folders, out, format_=archive.format, fractions=archive.fractions)
            if plan.assign is not None and archive.format == "cif-pairs" and not archive.request:
                warnings.warn(
                    f"'{name}' has no tables of train, val and test, unlike the published archive "
                    f"({archive.layout}): it is split by chemical system, unlike in the papers",
                    stacklevel=2,
                )
            least = 1 if every else archive.min_atoms
            left_out = f"; without crystals of fewer than {least} atoms" if least > 1 else ""
            info = DatasetInfo(
                name=name,
                source=f"{archive.record}: {', '.join(file.name for file in archive.files)}{left_out}",
                licence=archive.licence,
                calculator=archive.calculator,
            )
            summary, refused = run_import(plan, info, align=align, min_atoms=least, quiet=quiet)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
    for file in missing:
        if not keep:
            (folder / file.name).unlink(missing_ok=True)
        elif not quiet:
            _notify(f"kept: {folder / file.name}")
    source = {"archive": name, "files": [asdict(file) for file in archive.files], "licence": archive.licence}
    finish_import(out, summary | source, refused, quiet, as_json)


def _with_files(archive: Archive, folder: Path, url: str) -> tuple[Archive, bool]:
    """Add the files of an archive, with sizes and checksums from its record.

    Returns:
        The archive, and True if its record could be read.

    Raises:
        DatasetError: The record cannot be read and no file is present.
    """
    from repose.data.archives.record import archives_in, complete_from_record
    from repose.data.archives.registry import ArchiveFile, by_hand
    from repose.errors import DatasetError

    def present(files: tuple[ArchiveFile, ...]) -> bool:
        return bool(files) and all((folder / file.name).is_file() for file in files)

    if archive.request and not url and not present(archive.files):
        raise DatasetError(
            f"'{archive.name}' cannot be downloaded: {archive.request}. {by_hand(archive, folder)}"
        )
    complete = True
    try:
        archive = complete_from_record(archive, folder, _notify)
    except DatasetError as error:
        # Files saved by hand or from another address are used without the record.
        files = archive.files or archives_in(folder)
        if not url and not present(files):
            raise DatasetError(f"{error} {by_hand(archive, folder)}") from None
        _notify(str(error))
        archive, complete = replace(archive, files=files), False
    if url:
        guess = PurePosixPath(urlsplit(url).path).name or f"{archive.name}.zip"
        first, *others = archive.files or (ArchiveFile(guess),)
        with wrong_usage():
            if others:
                raise DatasetError(
                    f"--url gives one file; '{archive.name}' has more. {by_hand(archive, folder)}"
                )
        archive = replace(archive, files=(replace(first, url=url),))
    return archive, complete


def _download(archive: Archive, file: ArchiveFile, folder: Path, quiet: bool) -> None:
    from repose.data.archives.download import download
    from repose.data.archives.registry import by_hand
    from repose.errors import DatasetError

    with ExitStack() as stack:
        progress: Progress | None = None

        def advance(done: int, total: int | None) -> None:
            nonlocal progress
            now = done // MEGABYTE
            if progress is None:
                progress = stack.enter_context(Progress((total or 0) // MEGABYTE, "MB", quiet, unit="MB"))
            elif now > progress.steps:
                # Bytes of an earlier run are not counted.
                progress.count(now - progress.steps)
            progress.step(now - progress.steps)

        try:
            download(
                *(file.url, folder / file.name),
                size=file.size,
                checksum=file.checksum,
                progress=advance,
                notify=(lambda message: None) if quiet else _notify,
            )
        except DatasetError as error:
            raise DatasetError(f"{error} {by_hand(archive, folder)}") from None


def _ask(yes: bool) -> None:
    """Ask for confirmation; exit with status 2 if there is no terminal, and abort if the answer is no."""
    if yes:
        return
    if not on_terminal():
        fail("there is no terminal for the question: pass --yes to download.")
        raise typer.Exit(2)
    typer.confirm("Download?", default=True, abort=True, err=True)


def on_terminal() -> bool:
    """Return whether a question can be answered."""
    return sys.stdin.isatty()


def _describe(
    archive: Archive, complete: bool, missing: list[ArchiveFile], folder: Path, out: Path, err: bool
) -> None:
    """Print source, licence, files and destination."""
    lines = [
        f"{archive.name}: {archive.title}",
        f"record: {archive.record}",
        f"licence: {archive.licence or 'unknown; see the record'}",
        f"cite: {archive.citation}",
    ]
    if archive.note:
        lines.append(f"note: {archive.note}")
    for file in archive.files:
        path = folder / file.name
        part = path.with_name(f"{path.name}.part")
        state = "present" if file not in missing else "to be downloaded"
        if file in missing and part.is_file():
            state += f", {_megabytes(part.stat().st_size)} of it present"
        published = file.checksum or ("no checksum is published" if complete else "checksum unknown")
        lines.append(f"file: {path}: {_megabytes(file.size)}, {published}; {state}")
    for line in [*lines, f"dataset: {out}"]:
        typer.echo(line, err=err)


def _list(as_json: bool) -> None:
    from rich.table import Table

    from repose.data.archives.registry import ARCHIVES

    if as_json:
        typer.echo(to_json([asdict(archive) for archive in ARCHIVES.values()]))
        return
    table = Table("name", "content", "size", "licence", "record")
    for archive in ARCHIVES.values():
        sizes = [file.size or 0 for file in archive.files]
        size = _megabytes(sum(sizes)) if sizes and all(sizes) else "-"
        record = f"{archive.record} (by request)" if archive.request else archive.record
        table.add_row(archive.name, archive.title, size, archive.licence or "-", record)
    console().print(table)
    typer.echo("-: unknown; read from the record, with checksums, before a download")


def _megabytes(size: int | None) -> str:
    return "size unknown" if size is None else f"{size / MEGABYTE:.1f} MB"


def _notify(message: str) -> None:
    typer.echo(message, err=True)


@contextmanager
def _failed_import() -> Iterator[None]:
    """End the command with status 1 after an error of network, archive or disk."""
    from repose.data.pairing import describe

    try:
        with wrong_usage(status=1):
            yield
    except OSError as error:
        fail(f"{describe(error)}.")
        raise typer.Exit(1) from None
