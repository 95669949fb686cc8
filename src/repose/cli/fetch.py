"""`repose data fetch`: public archives, downloaded, checked and imported."""

from __future__ import annotations

import shutil
import sys
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
        str | None, typer.Argument(help="Archive; none: list the archives.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the dataset; datasets/NAME if not given. An older dataset is replaced.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Where downloads are kept; the user's cache if not given. NAME is a folder in it.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[str, typer.Option(help="Download the archive's file from here instead.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the downloaded file after the import.")] = False,
    align: Annotated[
        bool, typer.Option(help="Turn relaxed crystals back where they are rotated against the input.")
    ] = True,
    device: NoDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Download a public archive, check it, and import it as a dataset; without a name, list the archives.

    Size, licence and record are shown first, and a question is asked; without a terminal --yes must answer
    it. A download that broke off goes on when the command is run again. Without a network, save the file by
    hand where the message says, and run the command again. Exit status 1: nothing was downloaded, or crystals
    were refused.

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
    said = not (quiet and yes)
    with _refusing():
        archive, asked = _known(archive, folder, url)
        missing = [file for file in archive.files if not (folder / file.name).is_file()]
        if said:
            _describe(archive, asked, missing, folder, out, err=as_json or quiet)
        for file in archive.files:
            if file not in missing:  # it may have been put there by hand
                verify(folder / file.name, size=file.size, checksum=file.checksum)
        if missing:
            _ask(yes)
            for file in missing:
                _download(archive, file, folder, quiet)
        unpacked = folder / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)  # what a kill left
        try:
            for file in archive.files:
                unpack(folder / file.name, unpacked, archive.unpacked)
            plan = plan_import(folders_to_import(unpacked, archive), out, format_=archive.format)
            info = DatasetInfo(
                name=name,
                source=f"{archive.record}: {', '.join(file.name for file in archive.files)}",
                licence=archive.licence,
                calculator=archive.calculator,
            )
            report, refused = run_import(plan, info, align=align, quiet=quiet)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
    for file in missing:
        if not keep:
            (folder / file.name).unlink(missing_ok=True)
        elif not quiet:
            _notify(f"kept: {folder / file.name}")
    about = {"archive": name, "files": [asdict(file) for file in archive.files], "licence": archive.licence}
    finish_import(plan, report | about, refused, quiet, as_json)


def _known(archive: Archive, folder: Path, url: str) -> tuple[Archive, bool]:
    """The archive with its files, and what is published about them, as far as it can be known now.

    Returns:
        The archive, and whether all that is published is in it.

    Raises:
        DatasetError: Nothing can be known and nothing is there.
    """
    from repose.data.archives.record import archives_in, complete_from_record
    from repose.data.archives.registry import ArchiveFile, by_hand
    from repose.errors import DatasetError

    def there(files: tuple[ArchiveFile, ...]) -> bool:
        return bool(files) and all((folder / file.name).is_file() for file in files)

    if archive.request and not url and not there(archive.files):
        raise DatasetError(
            f"'{archive.name}' cannot be downloaded: {archive.request}. {by_hand(archive, folder)}"
        )
    asked = True
    try:
        archive = complete_from_record(archive, folder, _notify)
    except DatasetError as error:
        # What was put there by hand, or comes from elsewhere, can be used all the same.
        files = archive.files or archives_in(folder)
        if not url and not there(files):
            raise DatasetError(f"{error} {by_hand(archive, folder)}") from None
        _notify(str(error))
        archive, asked = replace(archive, files=files), False
    if url:
        guess = PurePosixPath(urlsplit(url).path).name or f"{archive.name}.zip"
        first, *others = archive.files or (ArchiveFile(guess),)
        with wrong_usage():
            if others:
                raise DatasetError(
                    f"--url gives one file; '{archive.name}' has more. {by_hand(archive, folder)}"
                )
        archive = replace(archive, files=(replace(first, url=url),))
    return archive, asked


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
                # What an earlier run brought does not count.
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
    """Ask whether to go on.

    Raises:
        typer.Exit: With status 2: there is nobody to ask.
        typer.Abort: No.
    """
    if yes:
        return
    if not _on_terminal():
        fail("there is no terminal to ask on: pass --yes to download.")
        raise typer.Exit(2)
    typer.confirm("Download?", default=True, abort=True, err=True)


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _describe(
    archive: Archive, asked: bool, missing: list[ArchiveFile], folder: Path, out: Path, err: bool
) -> None:
    """Say what is about to be done."""
    lines = [
        f"{archive.name}: {archive.title}",
        f"record: {archive.record}",
        f"licence: {archive.licence or 'not known; see the record'}",
        f"cite: {archive.citation}",
    ]
    if archive.note:
        lines.append(f"note: {archive.note}")
    for file in archive.files:
        path = folder / file.name
        part = path.with_name(f"{path.name}.part")
        there = "is there" if file not in missing else "to be downloaded"
        if file in missing and part.is_file():
            there += f", {_megabytes(part.stat().st_size)} of it are there"
        published = file.checksum or ("no checksum is published" if asked else "checksum not known")
        lines.append(f"file: {path}: {_megabytes(file.size)}, {published}; {there}")
    for line in [*lines, f"dataset: {out}"]:
        typer.echo(line, err=err)


def _list(as_json: bool) -> None:
    from rich.table import Table

    from repose.data.archives.registry import ARCHIVES

    if as_json:
        typer.echo(to_json([asdict(archive) for archive in ARCHIVES.values()]))
        return
    table = Table("name", "holds", "size", "licence", "record")
    for archive in ARCHIVES.values():
        sizes = [file.size for file in archive.files]
        size = _megabytes(sum(s for s in sizes if s)) if sizes and all(sizes) else "-"
        record = f"{archive.record} (by request)" if archive.request else archive.record
        table.add_row(archive.name, archive.title, size, archive.licence or "-", record)
    console().print(table)
    typer.echo("-: not in this list; the record is asked for it, and for checksums, before a download")


def _megabytes(size: int | None) -> str:
    return "size not known" if size is None else f"{size / MEGABYTE:.1f} MB"


def _notify(message: str) -> None:
    typer.echo(message, err=True)


@contextmanager
def _refusing() -> Iterator[None]:
    """What goes wrong with a network, an archive or a disk ends the program with status 1."""
    from repose.data.pairing import describe
    from repose.errors import ReposeError

    try:
        yield
    except ReposeError as error:
        fail(str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        fail(f"{describe(error)}.")
        raise typer.Exit(1) from None
