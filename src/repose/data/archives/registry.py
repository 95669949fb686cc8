"""Registry of public archives of unrelaxed/relaxed pairs: addresses and contents.

The entries follow the papers and codes of the authors. Sizes, checksums and most licences are not in the
registry (None or empty); they are read from the record before a download.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repose.errors import DatasetError, nearest

# Suffixes of archives that can be unpacked.
ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class ArchiveFile:
    """A file of an archive.

    Attributes:
        name: Name in the record and in the cache.
        url: Address of the file.
        size: Size in bytes, or None if unknown.
        checksum: ``"md5:..."``, or None if unknown.
    """

    name: str
    url: str = ""
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Archive:
    """A public archive.

    Attributes:
        name: Name on the command line.
        title: Contents in one line.
        record: Address of its web page.
        files: Files to download; if empty, the archives that the record lists.
        chosen: Name pattern of these; all of them if none matches.
        api: Address of the record as JSON; empty if there is none.
        licence: Licence; empty if it could not be verified.
        calculator: Method of the relaxations.
        citation: Works to cite.
        doi: DOIs of the papers and the record, where verified.
        format: One of `repose.data.importers.formats.FORMATS`.
        layout: Description of its folders and files.
        folders: Patterns of the ends of paths of the folders to import; if empty, all that hold pairs.
        min_atoms: Crystals of fewer atoms are left out, as by the authors.
        fractions: Train, val and test, if it has no split of its own.
        unpacked: Suffixes of the files that the importer reads.
        request: Person to contact if the archive cannot be downloaded.
        note: Further remarks for users.
    """

    name: str
    title: str
    record: str
    files: tuple[ArchiveFile, ...] = ()
    api: str = ""
    licence: str = ""
    calculator: str = "DFT"
    citation: str = ""
    doi: tuple[str, ...] = ()
    format: str = "cif-pairs"
    layout: str = ""
    chosen: str = "*"
    folders: tuple[str, ...] = ()
    min_atoms: int = 1
    fractions: str = "0.8,0.1,0.1"
    unpacked: tuple[str, ...] = (".cif", ".csv")
    request: str = ""
    note: str = ""


def _of_zenodo(number: int, *names: str, **about: Any) -> Archive:
    """Return an archive on Zenodo with addresses for a record number."""
    api = f"https://zenodo.org/api/records/{number}"
    files = tuple(ArchiveFile(name, f"{api}/files/{name}/content") for name in names)
    return Archive(record=f"https://zenodo.org/records/{number}", api=api, files=files, **about)


_LAYOUT = "CIF/ID_unrelaxed.cif and CIF/ID_relaxed.cif; train.csv, val.csv and test.csv"
_H2 = (
    "Yang et al., An Efficient High-Degree, High-Order Equivariant Graph Neural Network for Direct Crystal "
    "Structure Optimization, arXiv:2603.23941 (the archive)"
)
_C2DB = (
    "Haastrup et al., 2D Mater. 5, 042002 (2018); Gjerding et al., 2D Mater. 8, 044002 (2021); "
    "Lyngby and Thygesen, npj Comput. Mater. 8, 232 (2022)"
)
_C2DB_DOI = ("10.1088/2053-1583/aacfc1", "10.1088/2053-1583/ac1059")
_SMALL: dict[str, Any] = {
    "min_atoms": 3,
    "note": "Crystals of fewer than three atoms are left out, as by the authors.",
}
_XMNO_LAYOUT = (
    "CIF/ID_unrelaxed.cif and CIF/ID_relaxed.cif; id_prop_train_all.csv, id_prop_val_all.csv and "
    "id_prop_test_all.csv, or train.csv, val.csv and test.csv"
)
_MP_LAYOUT = "CIF/ID_U.cif and CIF/ID_R.cif; train.csv, val.csv and test.csv"
_XMNO = "Kim et al., npj Comput. Mater. 9, 142 (2023) (the pairs)"
_MP = "Chen and Ong, Nat. Comput. Sci. 2, 718 (2022) (the relaxations)"
_DEEPRELAX = "Yang et al., Nat. Commun. 15, 8148 (2024)"
_DEFECTS = (
    "Huang et al., npj 2D Mater. Appl. 7, 6 (2023) and Kazeev et al., npj Comput. Mater. 9, 113 (2023) "
    "(2DMD); Yang et al., npj Comput. Mater. 11, 229 (2025) (the pairs)"
)
_DEFECTS_DOI = (
    *("10.5281/zenodo.14027373", "10.1038/s41699-023-00369-1"),
    *("10.1038/s41524-023-01062-z", "10.1038/s41524-025-01728-w"),
)


def _with_code(number: int, paper: str, citation: str) -> tuple[Archive, ...]:
    """Return the datasets in the record that belongs to the authors' code of a paper."""
    note = "The record also holds preprocessed data, which Repose does not open."
    return (
        _of_zenodo(
            number,
            name=f"xmno-{paper}",
            title=f"X-Mn-O as xmno, from the record of {paper}",
            citation=f"{_XMNO}; {citation} (the archive)",
            layout=f"cifs_xmno: {_XMNO_LAYOUT}",
            chosen="*xmno*",
            folders=("cifs_xmno",),
            note=note,
        ),
        _of_zenodo(
            number,
            name=f"mp-{paper}",
            title=f"Materials Project as mp, from the record of {paper}",
            calculator="DFT (Materials Project)",
            citation=f"{_MP}; {citation} (the archive)",
            layout=f"MPF.2021.2.8: {_MP_LAYOUT}",
            chosen="*mp*",
            folders=("MPF.2021.2.8",),
            note=note,
        ),
    )


ARCHIVES: dict[str, Archive] = {
    archive.name: archive
    for archive in (
        _of_zenodo(
            *(19212240, "xmno.tar.gz"),
            name="xmno",
            title="X-Mn-O (X = Mg, Ca, Ba, Sr), made by substitution, relaxed by DFT",
            citation=f"{_XMNO}; {_H2}",
            layout=_XMNO_LAYOUT,
            note="First published at https://zenodo.org/records/8081655.",
        ),
        _of_zenodo(
            *(19212240, "mp.tar.gz"),
            name="mp",
            title="Materials Project: first and last states of relaxations (from MPF.2021.2.8)",
            calculator="DFT (Materials Project)",
            citation=f"{_MP}; {_H2}",
            doi=("10.6084/m9.figshare.19470599.v3",),
            layout=_MP_LAYOUT,
            note="MPF.2021.2.8 itself (figshare 19470599) is a pickle, which Repose does not open.",
        ),
        _of_zenodo(
            *(19212240, "c2db.tar.gz"),
            name="c2db",
            title="C2DB: two-dimensional crystals, initial and relaxed, as used by E3Relax-H2",
            calculator="PBE",
            citation=f"{_C2DB} (the database); {_H2}",
            doi=_C2DB_DOI,
            layout=_LAYOUT,
            **_SMALL,
        ),
        Archive(
            name="c2db-request",
            title="C2DB: initial and relaxed states, from the authors of the database",
            record="https://cmr.fysik.dtu.dk/c2db/c2db.html",
            calculator="PBE",
            citation=_C2DB,
            doi=_C2DB_DOI,
            layout=f"{_LAYOUT}; without tables it is split by chemical system",
            request=(
                "the authors of C2DB give the whole database, with initial states (relaxed.db, "
                "unrelaxed.db), on request: write to the corresponding author of its papers (others thank "
                "K. S. Thygesen and P. Lyngby, Technical University of Denmark, for it). Then write both "
                "states of every crystal as CIF/ID_unrelaxed.cif and CIF/ID_relaxed.cif, and pack the folder"
            ),
            files=(ArchiveFile("c2db-request.tar.gz"),),
        ),
        _of_zenodo(
            *(19212240, "jarvis.tar.gz"),
            name="jarvis",
            title="JARVIS-DFT: initial and relaxed crystals, as used by E3Relax-H2",
            calculator="DFT (JARVIS-DFT)",
            citation=_H2,
            layout=_LAYOUT,
            **_SMALL,
        ),
        Archive(
            name="jarvis-paths",
            title="JARVIS-DFT: relaxation paths, as used by RelaxNet",
            record="https://jarvis.nist.gov",
            calculator="DFT (JARVIS-DFT)",
            citation="Choudhary et al., npj Comput. Mater. 6, 173 (2020)",
            format="vasprun",
            layout="ID/vasprun.xml of every relaxation, with ID/OUTCAR for charges",
            unpacked=("vasprun.xml", ".xml.gz", "outcar", "outcar.gz"),
            fractions="0.9,0.05,0.05",
            request=(
                "JARVIS offers the files of every crystal as an archive of its own; its package jarvis-tools "
                "lists them (jarvis.db.figshare.data('raw_files')). Then write vasprun.xml of every "
                "relaxation as ID/vasprun.xml, with its OUTCAR, which has the charges, as ID/OUTCAR, and "
                "pack the folder"
            ),
            files=(ArchiveFile("jarvis-paths.tar.gz"),),
            note="The split of RelaxNet is not published; this one is by chemical system.",
        ),
        _of_zenodo(
            *(19212240, "vdW.tar.gz"),
            name="vdw",
            title="Layered van der Waals crystals, relaxed with dispersion corrections",
            calculator="DFT-D3",
            citation=f"Yang et al., Nat. Commun. 15, 8148 (2024) (the crystals); {_H2}",
            doi=("10.1038/s41467-024-52378-3",),
            layout=_LAYOUT,
            **_SMALL,
        ),
        _of_zenodo(
            14027373,
            name="defects",
            title="Point defects in MoS2 and WSe2 sheets (2DMD), initial and relaxed, as used by DefiNet",
            licence="CC-BY-4.0",
            citation=_DEFECTS,
            doi=_DEFECTS_DOI,
            layout=(
                "high_density_defects/MoS2_500 and /WSe2_500 with a folder CIF, low_density_defects/MoS2 and "
                "/WSe2 with a folder CIF_POSCAR, in each train.csv, val.csv and test.csv"
            ),
            folders=("MoS2*", "WSe2*"),
            note=(
                "All archives of the record are downloaded; of its six hosts MoS2 and WSe2 are imported. "
                "The public download of 2DMD holds no relaxed structures."
            ),
        ),
        _of_zenodo(
            14027373,
            name="defects-mos2",
            title="Point defects in MoS2 sheets at low density: the part of defects that E3Relax uses",
            licence="CC-BY-4.0",
            citation=_DEFECTS,
            doi=_DEFECTS_DOI,
            layout="low_density_defects/MoS2 with a folder CIF_POSCAR; train.csv, val.csv and test.csv",
            chosen="*low*",
            folders=("low_density_defects/MoS2",),
        ),
        *_with_code(14607178, "e3relax", "Yang et al., arXiv:2511.12243"),
        *_with_code(10899768, "deeprelax", _DEEPRELAX),
    )
}


def find_archive(name: str) -> Archive:
    """Return an archive by name; raise a DatasetError if there is none."""
    if name not in ARCHIVES:
        known = ", ".join(ARCHIVES)
        raise DatasetError(f"there is no archive '{name}'; known are {known}.{nearest(name, ARCHIVES)}")
    return ARCHIVES[name]


def default_cache() -> Path:
    """Return the folder of downloaded archives: ``repose/archives`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repose" / "archives"


def by_hand(archive: Archive, folder: Path) -> str:
    """Return instructions for downloading an archive by hand into a folder."""
    names = [file.name for file in archive.files]
    saved = " and ".join(f"{name} as {folder / name}" for name in names) or f"its archives in {folder}"
    return f"By hand: open {archive.record}, save {saved}, and run the same command again."
