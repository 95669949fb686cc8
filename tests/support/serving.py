"""Local server with configurable errors, and archives to serve."""

import hashlib
import http.server
import io
import socket
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field

import numpy as np

from repose.data.archives import download

NOISE = np.random.default_rng(0).bytes(700_000)
BLOCK = 16_384


@dataclass
class Served:
    """A file of the server, and its errors.

    `cuts`: number of bytes after which the connection ends, for each response in turn (None: never). `stall`:
    do not close it, but send nothing until `released`. `early`: a range begins this many bytes before the
    requested offset. `chunked`: send no length. `status`: respond with this error, or with a redirection
    if `headers` hold a Location.
    """

    data: bytes
    etag: str = '"one"'
    ranges: bool = True
    cuts: list = field(default_factory=list)
    stall: bool = False
    early: int = 0
    chunked: bool = False
    status: int = 0
    headers: dict = field(default_factory=dict)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> Served); `log` holds path, Range, If-Range and bytes sent of each request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.log, self.released = {}, [], threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def serve(self, path, data, **how):
        self.files[path] = Served(data, **how)
        return self.url(path)

    def asked(self, path):
        return [request for request in self.log if request["path"] == path]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        path = self.path.strip("/")
        wanted, condition = self.headers["Range"], self.headers["If-Range"]
        request = {"path": path, "range": wanted, "if_range": condition, "sent": 0}
        self.server.log.append(request)
        served = self.server.files.get(path)
        if served is None or served.status:
            self.send_response(served.status if served else 404)
            for name, value in served.headers.items() if served else ():
                self.send_header(name, value)
            self.end_headers()
            return
        begin, data = 0, served.data
        if wanted and served.ranges and condition in (None, served.etag):
            begin = int(wanted.removeprefix("bytes=").removesuffix("-")) - served.early
            if begin >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data) - begin))
        if served.etag:
            self.send_header("ETag", served.etag)
        for name, value in served.headers.items():
            self.send_header(name, value)
        self.end_headers()
        end = served.cuts.pop(0) if served.cuts else None
        try:
            for start in range(begin, len(data) if end is None else end, BLOCK):
                piece = data[start : min(start + BLOCK, len(data) if end is None else end)]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if served.chunked else piece)
                request["sent"] += len(piece)
            if end is None and served.chunked:
                self.wfile.write(b"0\r\n\r\n")
            if end is not None and served.stall:
                self.server.released.wait(20)
        except OSError:
            pass
        self.close_connection = True


def running_server(monkeypatch):
    """Run a server, with short pauses; made a fixture by the tests."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.released.set()
        running.shutdown()


def silent_address():
    """Return an address without a server; made a fixture by the tests."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def md5(data):
    return f"md5:{hashlib.md5(data).hexdigest()}"


def left(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def pack(path, members):
    """Write an archive of pairs of name (or TarInfo, ZipInfo) and bytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)
        return path
    kind = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, kind) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
