"""Files that grow while a run goes on, also where a store knows no appending."""

import pathlib
import shutil
import tempfile
import time

from internal_rl.paths import AnyPath, is_remote

UPLOAD_SECONDS = 30.0
"""At most so often a growing file is written anew; stores refuse to do so every second."""


class GrowingFolder:
    """A folder of growing files: the folder itself on this machine, a copy of it beside a store.

    What grows is appended to in `local`. On a store the whole of each file that has grown is
    uploaded every `UPLOAD_SECONDS`, and when `upload` or `close` is called: what came since then is
    lost if the machine is.

    Attributes:
      local: where to write.
    """

    def __init__(self, folder: AnyPath):
        """Begins with an empty copy of a folder on a store, see `fetch`."""
        self._store = folder if is_remote(folder) else None
        self.local = folder
        if self._store is not None:
            self.local = pathlib.Path(tempfile.mkdtemp(prefix="internal_rl_growing_"))
        self._uploaded: dict[str, int] = {}
        self._uploaded_at = time.monotonic()

    def fetch(self, name: str) -> None:
        """Brings a file of the store, if it is there, to be appended to."""
        if self._store is not None and (self._store / name).exists():
            (self.local / name).write_bytes((self._store / name).read_bytes())

    def grown(self) -> None:
        """To be told after every piece; uploads where the last time is long ago."""
        if self._store is not None and time.monotonic() - self._uploaded_at > UPLOAD_SECONDS:
            self.upload()

    def upload(self) -> None:
        """Writes every file that has changed in size to the store.

        Raises:
          OSError: it cannot be written.
        """
        if self._store is None:
            return
        for file in sorted(self.local.iterdir()):
            content = file.read_bytes()
            if self._uploaded.get(file.name) != len(content):
                (self._store / file.name).write_bytes(content)
                self._uploaded[file.name] = len(content)
        self._uploaded_at = time.monotonic()

    def close(self) -> None:
        """Uploads and removes the copy."""
        if self._store is not None and self.local.exists():
            self.upload()
            shutil.rmtree(self.local, ignore_errors=True)
