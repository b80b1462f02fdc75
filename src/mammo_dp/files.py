"""Files, hashes and identities: what names an artifact, without ever naming a path.

Identities of outside data are computed here: a data root by the names, sizes and times of its files and the bytes of
its tables, a weights file by its bytes.
"""

import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar


@cache
def package_version(name: str) -> str:
    """Of an installed distribution, looked up once: it takes milliseconds."""
    return importlib.metadata.version(name)


# --- hashing and JSON -------------------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, infinity as the string "inf", NaN refused."""
    return json.dumps(plain(value), sort_keys=True, indent=1, allow_nan=False)


def plain(value: Any) -> Any:
    """`value` in the types of JSON, infinity as the string "inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def digest(payload: Any) -> str:
    """SHA-256 of the payload's canonical JSON, 64 hex digits."""
    return hashlib.sha256(to_json(payload).encode()).hexdigest()


def fingerprint(payload: Any) -> str:
    """First 8 hex digits of the payload's digest: enough to name a folder, too few for anything secret."""
    return digest(payload)[:8]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write so that a reader sees the old file or the whole new one, also after a kill or a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a full disk, say: half a file would only make it fuller
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _sha256_of_version(path: str, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file, once a process for each version of it."""
    return sha256(Path(path))


def sha256_once(path: Path) -> str:
    """SHA-256 of a file, computed once a process for each size and time that it has."""
    stat = path.stat()
    return _sha256_of_version(str(path), stat.st_size, stat.st_mtime_ns)


# --- the cache and the identity of outside data -----------------------------------------------------------------


@dataclass(frozen=True)
class Cache:
    """Small results that are expensive to compute, kept as JSON files under `outputs/.cache`. Keys are hashed."""

    folder: Path

    def get(self, *key: Any) -> Any | None:
        try:
            return json.loads(self._path(key).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def put(self, value: Any, *key: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(key), to_json(value))

    def _path(self, key: tuple[Any, ...]) -> Path:
        return self.folder / f"{hashlib.sha256(to_json(key).encode()).hexdigest()[:16]}.json"


def file_identity(path: Path, store_cache: Cache) -> str:
    """SHA-256 of a file from outside, read again only when its size or time changes."""
    stat = path.stat()
    key = ("file", str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    known = store_cache.get(*key)
    if known is None:
        known = sha256(path)
        store_cache.put(known, *key)
    return known


Identity = TypeVar("Identity", bound=Callable[..., str])
_forgetful: list[Callable[[], None]] = []


def cached_per_run(identity: Identity) -> Identity:
    """Outside data is looked at once a command, however many nodes ask: `forget_identities` begins another."""
    cached = cache(identity)
    _forgetful.append(cached.cache_clear)
    return cached  # type: ignore[return-value]


def forget_identities() -> None:
    """Look at outside data anew from here on."""
    for forget in _forgetful:
        forget()


@cached_per_run
def tree_identity(root: Path) -> str:
    """Hash of the sorted (relative path, size, mtime) listing below `root`; tables (.csv) count by their bytes.

    Links are followed; a folder met again inside itself is not entered twice. Raises FileNotFoundError if there
    is no file.
    """
    entries: list[tuple[str, ...]] = []
    for path in walk_files(root, refused=[]):
        name = path.relative_to(root).as_posix()
        stat = path.stat()
        if path.suffix.lower() == ".csv":
            entries.append((name, sha256(path)))
        else:
            entries.append((name, str(stat.st_size), str(stat.st_mtime_ns)))
    if not entries:
        raise FileNotFoundError(f"no file in {root}")
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def walk_files(root: Path, refused: list[Path] | None = None) -> Iterator[Path]:
    """All files below `root` in sorted order, links followed, each real folder entered once on a way down.

    Hidden files and links that lead nowhere are passed over. Folders that may not be read are added to `refused`;
    without it, they raise OSError.
    """

    def descend(folder: str, ancestors: frozenset[str]) -> Iterator[Path]:
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            if refused is None:
                raise
            refused.append(Path(folder))
            return
        for entry in entries:
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:
                continue  # a link that leads to itself
            if is_folder:
                real = os.path.realpath(entry.path)
                if real not in ancestors:
                    yield from descend(entry.path, ancestors | {real})
            elif is_file and not entry.name.startswith("."):
                yield Path(entry.path)

    if root.is_dir():
        yield from descend(str(root), frozenset({os.path.realpath(root)}))
