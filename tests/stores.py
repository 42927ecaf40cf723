"""Stores of objects that tests write to: `gs://bucket` and `s3://bucket`, kept in a folder.

Files go through `etils.epath`, whose backend of a scheme is replaced. The arrays of checkpoints on
`gs://` are written by tensorstore past epath, to a server that speaks as much of the interface of
Google's stores as it needs; both see the same objects.
"""

import collections.abc
import contextlib
import fnmatch
import http.server
import io
import json
import os
import pathlib
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator

from etils.epath import backend, gpath, stat_utils
from orbax.checkpoint._src.path import gcs_utils

BUCKET = "bucket"


class Objects(collections.abc.MutableMapping):
    """Content of objects by their whole name, `gs://bucket/folder/file`.

    They lie in a folder of this machine, which several processes may share.
    """

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.writes = []
        self.lock = threading.RLock()

    def _file(self, name):
        return self._folder / name.replace("://", "/")

    def __getitem__(self, name):
        try:
            return self._file(name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KeyError(name) from None

    def __setitem__(self, name, content):
        with self.lock:
            self.writes.append(name)
            file = self._file(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = self._folder / f".{os.getpid()}.{threading.get_ident()}.part"
            part.write_bytes(content)
            os.replace(part, file)

    def __delitem__(self, name):
        try:
            self._file(name).unlink()
        except (FileNotFoundError, IsADirectoryError):
            raise KeyError(name) from None

    def __contains__(self, name):
        return self._file(name).is_file()

    def __iter__(self):
        return self._names(self._folder)

    def _names(self, top):
        for folder, _, files in os.walk(top):
            inside = folder[len(str(self._folder)) + 1 :]
            for file in files:
                if inside:
                    yield f"{inside}/{file}".replace("/", "://", 1)

    def __len__(self):
        return sum(1 for _ in self)

    def generation(self, name):
        """A number that changes whenever the object is written; 0 where there is none."""
        try:
            return self._file(name).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def below(self, folder):
        """Names of all objects of a folder."""
        return sorted(self._names(self._file(folder.rstrip("/"))))

    def any_below(self, folder):
        """Whether there is anything in a folder."""
        return next(self._names(self._file(folder)), None) is not None


class _Written(io.BytesIO):
    """An object that appears when it is closed, and not if the body was left by an exception."""

    def __init__(self, objects, name):
        super().__init__()
        self._objects, self._name = objects, name

    def close(self):
        if not self.closed:
            self._objects[self._name] = self.getvalue()
        super().close()

    def __exit__(self, kind, *rest):
        if kind is not None:
            super().close()
        self.close()


class Store(backend.Backend):
    """What epath asks of a store, over `Objects`: no folders, no appending, no renaming of many."""

    def __init__(self, objects):
        self._objects = objects

    def open(self, path, mode):
        name = os.fspath(path)
        if "a" in mode or "+" in mode:
            raise NotImplementedError("stores know no appending")
        if "w" in mode:
            raw = _Written(self._objects, name)
        elif name in self._objects:
            raw = io.BytesIO(self._objects[name])
        else:
            raise FileNotFoundError(name)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8", write_through=True)

    def exists(self, path):
        name = os.fspath(path).rstrip("/")
        return name in self._objects or self.isdir(name)

    def isdir(self, path):
        name = os.fspath(path).rstrip("/")
        return name.endswith(f"://{BUCKET}") or self._objects.any_below(name)

    def listdir(self, path):
        folder = os.fspath(path).rstrip("/")
        names = self._objects.below(folder)
        if not names and not self.isdir(path):
            raise FileNotFoundError(folder)
        return sorted({name[len(folder) + 1 :].partition("/")[0] for name in names})

    def glob(self, path):
        pattern = os.fspath(path).split("/")
        found = set()
        for name in list(self._objects):
            parts = name.split("/")[: len(pattern)]
            if len(parts) == len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern)):
                found.add("/".join(parts))
        return sorted(found)

    def walk(self, top, *, top_down=True, on_error=None):
        raise NotImplementedError

    def makedirs(self, path, *, exist_ok=False, mode=None):
        if not exist_ok and self.exists(path):
            raise FileExistsError(path)

    mkdir = makedirs

    def rmtree(self, path):
        names = self._objects.below(os.fspath(path))
        if not names:
            raise FileNotFoundError(path)
        for name in names:
            del self._objects[name]

    def remove(self, path):
        if self._objects.pop(os.fspath(path), None) is None:
            raise FileNotFoundError(path)

    def rename(self, path, dst):
        if self.isdir(path):
            raise NotImplementedError("stores rename no folders")
        self._objects[os.fspath(dst)] = self._objects.pop(os.fspath(path))

    replace = rename

    def copy(self, path, dst, overwrite):
        self._objects[os.fspath(dst)] = self._objects[os.fspath(path)]

    def stat(self, path):
        name = os.fspath(path)
        if not self.exists(name):
            raise FileNotFoundError(name)
        length = len(self._objects.get(name, b""))
        return stat_utils.StatResult(self.isdir(name), length, 0)


def _handler(server):
    """Class of the requests of tensorstore: read, list, write on a condition, delete."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            del arguments

        def _reply(self, code, content=b"", **headers):
            self.send_response(code)
            headers = {"Content-Length": str(len(content)), **headers}
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        @property
        def _objects(self):
            return server.objects

        def _asked(self):
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            place, _, name = url.path.partition("/o/")
            bucket = place.partition("/b/")[2].partition("/")[0]
            name = urllib.parse.unquote(name) or query.get("name", "")
            return query, f"gs://{bucket}/{name}"

        def _told(self, name):
            generation = str(self._objects.generation(name))
            size = str(len(self._objects[name]))
            inside = name.split("/", 3)[3]
            return {"name": inside, "generation": generation, "size": size, "bucket": BUCKET}

        def do_GET(self):
            query, name = self._asked()
            with self._objects.lock:
                if name.endswith("/"):
                    items = [self._told(found) for found in self._objects.below(name)]
                    begin, end = query.get("startOffset", ""), query.get("endOffset", "\xff")
                    items = [item for item in items if begin <= item["name"] < end]
                    return self._reply(200, json.dumps({"items": items}).encode())
                if name not in self._objects:
                    return self._reply(404)
                content, generation = self._objects[name], str(self._objects.generation(name))
            if query.get("ifGenerationNotMatch") == generation:
                return self._reply(304)
            code, headers, size = 200, {"x_goog_generation": generation}, len(content)
            if "Range" in self.headers:
                begin, _, end = self.headers["Range"].partition("=")[2].partition("-")
                first = int(begin) if begin else size - int(end)
                last = int(end) if begin and end else size - 1
                content, code = content[first : last + 1], 206
                headers["Content_Range"] = f"bytes {first}-{first + len(content) - 1}/{size}"
            return self._reply(code, content, **headers)

        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            query, name = self._asked()
            with self._objects.lock:
                held = str(self._objects.generation(name))
                if query.get("ifGenerationMatch", held) != held:
                    return self._reply(412)
                self._objects[name] = content
                return self._reply(200, json.dumps(self._told(name)).encode())

        def do_DELETE(self):
            _, name = self._asked()
            return self._reply(204 if self._objects.pop(name, None) is not None else 404)

    return Handler


class _Server(http.server.ThreadingHTTPServer):
    """One server for the process: tensorstore asks for its address once.

    Attributes:
      objects: that it serves now.
    """

    objects: Objects

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.serve_forever, daemon=True).start()


_server: list[_Server] = []


def address_of_server(objects: Objects) -> dict[str, str]:
    """What tells tensorstore, in this or another process, where the store is."""
    if not _server:
        _server.append(_Server())
    _server[0].objects = objects
    return {
        "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{_server[0].server_port}",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
    }


def use_store(objects: Objects, scheme: str, set_item, set_attribute) -> None:
    """Replaces the store of a scheme by these objects."""
    set_item(gpath._PREFIX_TO_BACKEND, scheme, Store(objects))
    set_attribute(gpath, "_is_tf_installed", lambda: False)
    # Orbax asks the real service what kind of bucket it is.
    set_attribute(gcs_utils, "get_bucket", lambda name: None)


@contextlib.contextmanager
def store(monkeypatch, scheme: str) -> Iterator[Objects]:
    """A fresh `<scheme>://bucket` inside of the body, and what it holds."""
    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patch:
        objects = Objects(folder)
        os.environ.update(address_of_server(objects))
        use_store(objects, scheme, patch.setitem, patch.setattr)
        yield objects
