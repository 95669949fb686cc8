"""Unpacking: only wanted files are written, and only inside the folder."""

import gzip
import tarfile
import zipfile

import pytest

from repose.data.archives import unpack
from repose.errors import DatasetError
from support.serving import NOISE, left, pack

KINDS = ("a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2")


@pytest.mark.parametrize("kind", KINDS)
def test_wanted_files_are_unpacked_and_no_others(tmp_path, kind):
    members = [
        *(("xmno/train.csv", b"1"), ("xmno/CIF/a.CIF", b"two"), ("xmno/model.pt", NOISE)),
        *(("__MACOSX/xmno/CIF/a.cif", b"junk"), ("xmno/CIF/._a.cif", b"junk")),
    ]
    written = unpack.unpack(pack(tmp_path / kind, members), tmp_path / "out", (".cif", ".csv"))
    found = {
        str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in tmp_path.glob("out/**/*") if p.is_file()
    }
    assert found == {"xmno/train.csv": b"1", "xmno/CIF/a.CIF": b"two"}
    assert written == 2


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_folder_separators_of_any_system(tmp_path, kind):
    path = pack(tmp_path / kind, [("xmno\\CIF\\a.cif", b"1"), ("xmno/CIF/./b.cif", b"2")])
    assert unpack.unpack(path, tmp_path / "out", (".cif",)) == 2
    assert left(tmp_path / "out" / "xmno" / "CIF") == ["a.cif", "b.cif"]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize(
    "name",
    [
        "../evil.cif",
        "a/../../evil.cif",
        "/tmp/evil.cif",
        "..\\evil.cif",
        "C:\\evil.cif",
        "C:evil.cif",
        "\\evil.cif",
    ],
)
def test_paths_out_of_the_folder_are_refused(tmp_path, kind, name):
    path = pack(tmp_path / kind, [("fine.cif", b"1"), (name, b"evil"), ("last.cif", b"2")])
    with pytest.raises(
        DatasetError, match=r"is refused, nothing was imported: its member .* (absolute|leads out)"
    ):
        unpack.unpack(path, tmp_path / "in" / "out", (".cif",))
    assert list(tmp_path.rglob("*evil*")) == []
    assert path.is_file()


def special(kind, target="/etc/passwd"):
    info = tarfile.TarInfo("CIF/x.cif")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    path = pack(tmp_path / "a.tar.gz", [("fine.cif", b"1"), (special(kind), b"")])
    with pytest.raises(DatasetError, match=r"'CIF/x\.cif' is a link or a device"):
        unpack.unpack(path, tmp_path / "out", (".cif",))
    assert left(tmp_path / "out") == ["fine.cif"]


def test_links_in_zip_files_are_refused(tmp_path):
    link = zipfile.ZipInfo("CIF")
    link.external_attr = 0o120777 << 16
    path = pack(tmp_path / "a.zip", [(link, b".."), ("CIF/evil.cif", b"1")])
    with pytest.raises(DatasetError, match="'CIF' is a link or a device"):
        unpack.unpack(path, tmp_path / "out", (".cif",))
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["zeros.cif", "zeros.bin"])
def test_bombs_are_refused_by_size(tmp_path, monkeypatch, kind, name):
    monkeypatch.setattr(unpack, "SMALLEST_LIMIT", 100_000)
    monkeypatch.setattr(unpack, "LARGEST_LIMIT", 200_000)
    path = pack(tmp_path / kind, [("fine.cif", b"1"), (name, bytes(1_000_000))])
    with pytest.raises(DatasetError, match=r"it unpacks to more than [12]00000 bytes"):
        unpack.unpack(path, tmp_path / "out", (".cif",))
    assert left(tmp_path / "out") == ["fine.cif"]


def test_endless_data_after_the_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "SMALLEST_LIMIT", 100_000)
    monkeypatch.setattr(unpack, "LARGEST_LIMIT", 200_000)
    path = pack(tmp_path / "a.tar.gz", [("fine.cif", b"1")])
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(10_000_000)))
    with pytest.raises(DatasetError, match=r"data after its end.*a\.tar\.gz\.bad"):
        unpack.unpack(path, tmp_path / "out", (".cif",))


def test_bombs_are_refused_by_number(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MOST_MEMBERS", 10)
    fine = pack(tmp_path / "fine.tar.gz", [(f"{k}.cif", b"1") for k in range(10)])
    assert unpack.unpack(fine, tmp_path / "fine", (".cif",)) == 10
    path = pack(tmp_path / "a.tar.gz", [(f"{k}.cif", b"1") for k in range(11)])
    with pytest.raises(DatasetError, match="10 files"):
        unpack.unpack(path, tmp_path / "out", (".cif",))


def damaged(kind, how, folder):
    """Write an archive, damaged in one way."""
    path = pack(folder / kind, [(f"CIF/{k}.cif", NOISE[k * 1000 : k * 1000 + 20_000]) for k in range(10)])
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flipped":
        data[len(data) // 2] ^= 0xFF
    elif how == "tail":
        data[-6] ^= 0xFF  # part of the checksum at the end, if any
    elif how == "locked":
        for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            begin = -1
            while (begin := data.find(signature, begin + 1)) >= 0:
                data[begin + at] |= 1
    path.write_bytes(
        {"page": b"<!DOCTYPE html><p>Log in", "empty": b"", "noise": NOISE}.get(how, bytes(data))
    )
    return path


DAMAGES = [
    *((kind, how) for kind in ("a.zip", "a.tar.gz", "a.tar.xz", "a.tar.bz2") for how in ("cut", "flipped")),
    *(
        ("a.tar.gz", "tail"),
        ("a.zip", "locked"),
        ("a.zip", "page"),
        ("a.zip", "empty"),
        ("a.zip", "noise"),
        ("a.tar", "cut"),
    ),
]


@pytest.mark.parametrize(("kind", "how"), DAMAGES)
def test_damaged_archives_are_set_aside(tmp_path, kind, how):
    path = damaged(kind, how, tmp_path)
    with pytest.raises(DatasetError, match=rf"cannot be unpacked.*renamed .*{kind}\.bad") as caught:
        unpack.unpack(path, tmp_path / "out", (".cif",))
    assert ("web page" in str(caught.value)) == (how == "page")
    assert not path.exists()
    assert path.with_name(f"{kind}.bad").exists()


def test_a_member_that_is_a_folder_and_a_file_is_an_error(tmp_path):
    path = pack(tmp_path / "a.tar.gz", [("CIF.cif", b"1"), ("CIF.cif/x.cif", b"2")])
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack.unpack(path, tmp_path / "out", (".cif",))
