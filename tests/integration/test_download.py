"""Downloads from a local server: after any error the file is correct or missing."""

import gzip
import hashlib
import socket
import time

import numpy as np
import pytest

from repose.data.archives import download
from repose.errors import DatasetError
from support.serving import NOISE, Served, left, md5, running_server, silent_address

server, nobody = pytest.fixture(running_server), pytest.fixture(silent_address)


def test_a_download_is_complete_and_leaves_nothing_else(server, tmp_path):
    seen = []
    download.download(
        *(server.serve("a.zip", NOISE), tmp_path / "deep" / "a.zip"),
        size=len(NOISE),
        checksum=md5(NOISE),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (tmp_path / "deep" / "a.zip").read_bytes() == NOISE
    assert left(tmp_path / "deep") == ["a.zip"]
    assert seen[0] == (0, len(NOISE))
    assert seen[-1] == (len(NOISE), len(NOISE))
    assert [r["range"] for r in server.log] == [None]


@pytest.mark.parametrize("cuts", [[1], [300_001], [100_000, 100_001, 699_999], [0, 5, 0, 6, 0, 7]])
def test_a_broken_connection_is_resumed_and_no_byte_is_sent_twice(server, tmp_path, cuts):
    url = server.serve("a.zip", NOISE, cuts=list(cuts))
    download.download(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert len(server.log) == len(cuts) + 1
    begins = [int(r["range"][6:-1]) if r["range"] else 0 for r in server.log]
    assert begins == list(np.maximum.accumulate([0, *cuts]))
    assert {r["if_range"] for r in server.log if r["range"]} == {'"one"'}
    assert sum(r["sent"] for r in server.log) == len(NOISE)


def test_another_run_resumes_a_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    url = server.serve("a.zip", NOISE, cuts=[400_000])
    with pytest.raises(DatasetError, match=r"ended after 400000 of 700000 bytes\. 400000 bytes are kept in"):
        download.download(url, tmp_path / "a.zip")
    assert left(tmp_path) == ["a.zip.part", "a.zip.part.version"]
    download.download(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert left(tmp_path) == ["a.zip"]
    assert (server.log[1]["range"], server.log[1]["sent"]) == ("bytes=400000-", 300_000)


def test_without_ranges_the_download_is_restarted(server, tmp_path):
    said = []
    url = server.serve("a.zip", NOISE, ranges=False, cuts=[200_000])
    download.download(url, tmp_path / "a.zip", notify=said.append)
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert [r["sent"] for r in server.log] == [200_000, 700_000]
    assert any("is restarted" in line for line in said)


def test_a_server_without_ranges_that_always_disconnects_is_an_error(server, tmp_path):
    url = server.serve("a.zip", NOISE, ranges=False, cuts=[200_000] * 50)
    with pytest.raises(DatasetError, match="ended after 200000"):
        download.download(url, tmp_path / "a.zip")
    assert len(server.log) == download.ATTEMPTS


def test_parts_of_two_versions_are_never_joined(server, tmp_path):
    url = server.serve("a.zip", NOISE, cuts=[300_000])
    new = NOISE[::-1]

    def change(message):
        server.files["a.zip"] = Served(new, etag='"two"')

    download.download(url, tmp_path / "a.zip", notify=change)
    assert (tmp_path / "a.zip").read_bytes() == new
    assert server.log[1]["if_range"] == '"one"'
    assert server.log[1]["sent"] == len(new)


def test_without_a_version_only_a_known_checksum_allows_resuming(server, tmp_path):
    for name, checksum, expected in (("a", None, [None, None]), ("b", md5(NOISE), [None, "bytes=300000-"])):
        url = server.serve(name, NOISE, etag="", cuts=[300_000])
        download.download(url, tmp_path / name, checksum=checksum)
        assert (tmp_path / name).read_bytes() == NOISE
        assert [r["range"] for r in server.asked(name)] == expected
        assert {r["if_range"] for r in server.asked(name)} == {None}


def test_a_date_is_a_version_but_a_weak_etag_is_not(server, tmp_path):
    date = {"Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"}
    url = server.serve("a", NOISE, etag='W/"one"', cuts=[300_000], headers=date)
    download.download(url, tmp_path / "a")
    assert server.log[1]["if_range"] == date["Last-Modified"]
    assert (tmp_path / "a").read_bytes() == NOISE


def test_a_download_is_restarted_if_the_file_became_shorter(server, tmp_path):
    url = server.serve("a.zip", NOISE, etag="", cuts=[300_000])
    short = NOISE[:1000]

    def change(message):
        server.files["a.zip"].data = short

    download.download(url, tmp_path / "a.zip", checksum=md5(short), notify=change)
    assert (tmp_path / "a.zip").read_bytes() == short


def test_a_download_is_restarted_if_another_part_is_sent(server, tmp_path):
    said = []
    url = server.serve("a.zip", NOISE, early=10, cuts=[300_000])
    download.download(url, tmp_path / "a.zip", notify=said.append)
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert [r["range"] for r in server.log] == [None, "bytes=300000-", None]
    assert any("another part" in line for line in said)


@pytest.mark.parametrize("checksum", [md5(NOISE), None])
def test_a_run_interrupted_after_the_last_byte_downloads_nothing(server, tmp_path, checksum):
    url = server.serve("a.zip", NOISE)
    (tmp_path / "a.zip.part").write_bytes(NOISE)
    (tmp_path / "a.zip.part.version").write_text(f'{url}\n"one"')
    download.download(url, tmp_path / "a.zip", checksum=checksum)
    assert left(tmp_path) == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert [r["sent"] for r in server.log] == [0]


def test_a_part_of_another_address_is_not_resumed(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(NOISE[:1000][::-1])
    (tmp_path / "a.zip.part.version").write_text('http://other/a.zip\n"one"')
    download.download(server.serve("a.zip", NOISE), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == NOISE


def test_a_file_of_unknown_length_is_resumed(server, tmp_path):
    seen = []
    url = server.serve("a.zip", NOISE, chunked=True, cuts=[300_000])
    download.download(url, tmp_path / "a.zip", progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert seen[0] == (0, None)
    assert server.log[1]["range"] == "bytes=300000-"


def test_a_file_is_stored_as_it_is_sent(server, tmp_path):
    """Some servers declare compressed archives as compressed in transit."""
    data = gzip.compress(NOISE)
    url = server.serve("a.tar.gz", data, headers={"Content-Encoding": "gzip"}, cuts=[300_000])
    download.download(url, tmp_path / "a.tar.gz", size=len(data), checksum=md5(data))
    assert (tmp_path / "a.tar.gz").read_bytes() == data


def test_a_redirection_is_followed_and_resumed(server, tmp_path):
    there = server.serve("b.zip", NOISE, cuts=[300_000])
    url = server.serve("a.zip", b"", status=302, headers={"Location": there})
    download.download(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert [r["range"] for r in server.asked("b.zip")] == [None, "bytes=300000-"]


def test_the_pause_that_a_server_requests_is_respected(server, tmp_path, monkeypatch):
    waits = []

    def change(seconds):
        waits.append(seconds)
        server.files["a.zip"].status = 0

    monkeypatch.setattr(time, "sleep", change)
    url = server.serve("a.zip", NOISE, status=429, headers={"Retry-After": "7"})
    download.download(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert waits == [7]


@pytest.mark.parametrize("status", [404, 503])
def test_a_record_is_requested_once(server, status):
    assert download.read_record(server.serve("record", b"{}")) == b"{}"
    server.files["record"].status = status
    with pytest.raises(DatasetError, match=f"HTTP {status}"):
        download.read_record(server.url("record"))
    assert len(server.log) == 2
    server.serve("record", NOISE, cuts=[1000])
    with pytest.raises(DatasetError, match="cannot be read"):
        download.read_record(server.url("record"))


def test_a_part_of_unknown_origin_is_not_used(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"something else")
    (tmp_path / "a.zip.part.version").write_bytes(b"\xff broken")
    download.download(server.serve("a.zip", NOISE), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == NOISE


def test_a_wrong_checksum_sets_the_file_aside(server, tmp_path):
    url = server.serve("a.zip", NOISE)
    with pytest.raises(DatasetError, match=r"its MD5 is .*published is .* renamed .*a\.zip\.bad"):
        download.download(url, tmp_path / "a.zip", checksum=md5(b"x"))
    assert left(tmp_path) == ["a.zip.bad"]
    download.download(url, tmp_path / "a.zip", checksum=f"sha256:{hashlib.sha256(NOISE).hexdigest().upper()}")
    assert (tmp_path / "a.zip").read_bytes() == NOISE


def test_a_file_of_another_size_is_not_downloaded_and_the_part_is_kept(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(NOISE[:1000])
    with pytest.raises(DatasetError, match="700000 bytes, 12345 were expected"):
        download.download(server.serve("a.zip", NOISE), tmp_path / "a.zip", size=12345)
    assert (tmp_path / "a.zip.part").read_bytes() == NOISE[:1000]


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (410, 1), (503, 5), (429, 5)])
def test_only_transient_statuses_are_retried(server, tmp_path, status, attempts):
    url = server.serve("a.zip", NOISE, status=status)
    with pytest.raises(DatasetError, match=f"HTTP {status}"):
        download.download(url, tmp_path / "a.zip")
    assert len(server.log) == attempts
    assert left(tmp_path) == []


def test_a_silent_server_times_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    url = server.serve("a.zip", NOISE, cuts=[500_000], stall=True)
    download.download(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == NOISE
    assert server.log[1]["range"] == "bytes=500000-"


@pytest.mark.parametrize("where", ["refused", "unknown"])
def test_an_unreachable_host_is_not_retried(nobody, tmp_path, monkeypatch, where):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    if where == "unknown":
        monkeypatch.setattr(socket, "getaddrinfo", _no_names)
    with pytest.raises(DatasetError, match="refused" if where == "refused" else "not known"):
        download.download(f"{nobody}/a.zip", tmp_path / "a.zip")


def _no_names(*arguments, **options):
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/a.zip", "a.zip", "http://", "http://[::1", "http://ä"]
)
def test_other_addresses_are_refused(url, tmp_path):
    with pytest.raises(DatasetError, match="https or http"):
        download.download(url, tmp_path / "a.zip")
