"""Names of folders: on this machine, or on a store of objects such as `gs://bucket/run`.

Folders of this machine are `pathlib` paths; stores are reached through `etils.epath`, which knows
`gs://`, `s3://`, `az://`, `hf://` and whatever else has been registered with it. On a store there
is no lock and no appending, one file appears whole once it is written, and folders are nothing but
what the names of files have in common.
"""

import os
import pathlib
import re

import fsspec.config
from etils import epath

from internal_rl.errors import ConfigError, StorageError

AnyPath = pathlib.Path | epath.Path

_ALLOWED = "allowed is a folder of this machine or of a store, as in gs://BUCKET/FOLDER"
_EXTRAS = {"gs": "gcs"}
_WITH_BUCKETS = ("gs", "s3", "az")
# How fsspec, through which epath reaches stores, calls them.
_PROTOCOLS = {"gs": "gcs"}
# A scheme with one slash too few is a typing error and no folder.
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(/?)(.*)", re.DOTALL)


def as_path(name: str | os.PathLike, what: str = "--workdir") -> AnyPath:
    """The path that a name stands for, `~` expanded; touches no store.

    Args:
      name: of a folder or file.
      what: the flag that gave it, for messages.

    Raises:
      ConfigError: the name begins with a scheme that nothing is registered for, or is no whole name
        of a place on a store.
    """
    text = os.fspath(name)
    uri = _URI.fullmatch(text)
    if uri is None:
        return _local(text, what) if text.startswith("~") else pathlib.Path(text)
    scheme, slash, rest = uri.groups()
    if not slash or not rest.strip("/") or rest.startswith("/"):
        raise ConfigError(f"{what}: '{text}' given, {_ALLOWED}")
    try:
        path = epath.Path(text)
    except KeyError:
        raise ConfigError(
            f"{what}: '{text}' given, no store is known as {scheme}://, {_ALLOWED}"
        ) from None
    # What other processes of a run have written has to be seen.
    fsspec.config.conf.setdefault(_PROTOCOLS.get(scheme, scheme), {})["use_listings_cache"] = False
    return path


def _local(text: str, what: str) -> pathlib.Path:
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{what}: '{text}' given, that user has no home; {_ALLOWED}") from None


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is on a store."""
    return "://" in os.fspath(path)


def scheme_of(path: str | os.PathLike) -> str:
    """`gs` of `gs://bucket/run`; empty on this machine."""
    return os.fspath(path).partition("://")[0] if is_remote(path) else ""


def check_store(path: AnyPath, what: str = "--workdir") -> None:
    """Asks a store for an answer, and those that have buckets for this one.

    Folders of this machine are left to their use.

    Raises:
      ConfigError: the package that reaches the store is not installed.
      StorageError: the bucket is not there, or may not be read.
    """
    if not is_remote(path):
        return
    scheme, _, rest = os.fspath(path).partition("://")
    has_buckets = scheme in _WITH_BUCKETS
    bucket = f"{scheme}://{rest.partition('/')[0]}" if has_buckets else os.fspath(path)
    try:
        found = epath.Path(bucket).exists()
    except ImportError as error:
        extra = f": pip install 'internal_rl[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else ""
        raise ConfigError(f"{what}: {scheme}:// needs another package ({error}){extra}") from None
    except Exception as error:
        # Each store has exceptions of its own: of credentials, of the network, of the service.
        reason = " ".join(str(error).split())[:300]
        raise StorageError(
            f"{what}: {bucket} cannot be reached ({type(error).__name__}: {reason})"
        ) from error
    if has_buckets and not found:
        raise StorageError(f"{what}: {bucket} is not there, or this account may not read it")
