"""An artifact: one folder a finished piece of work, named by a fingerprint of everything that shaped it.

`outputs/<stage>/<label>-<fp8>/` holds the files, and last of all, written atomically, `manifest.json`. No manifest
means not finished.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mammo_dp.config import Config
from mammo_dp.errors import UserError
from mammo_dp.files import (
    Cache,
    digest,
    package_version,
    plain,
    sha256,
    sha256_once,
    to_json,
    walk_files,
    write_atomic,
)

SCHEMA_VERSION = 2  # raised when manifests say other things; older artifacts are built again
MANIFEST = "manifest.json"
ERROR = "error.txt"
INPUTS = "inputs.json"
LAST = "last.pt"  # the newest checkpoint
PREVIOUS = "previous.pt"  # the one before
UNFINISHED = (
    LAST,
    PREVIOUS,
    "done.jsonl",
    ERROR,
)  # what a run keeps to resume from, and drops at its end
NOT_IN_CONTENT_HASH = (
    "config.yaml",
    "log.jsonl",
    INPUTS,
)  # what may differ between two builds of the same thing
PACKAGES = (
    "mammo-dp",
    "torch",
    "torchvision",
    "timm",
    "opacus",
    "numpy",
    "opencv-python-headless",
    "scikit-learn",
)


# --- finished and unfinished folders ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `path` hands out its files and refuses those whose bytes have changed since."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def content(self) -> str:
        """Fingerprint of what its files hold, settings and logs aside: two equal builds have the same."""
        return self.content_digest[:8]

    @property
    def content_digest(self) -> str:
        """The same in all its 64 hex digits."""
        kept = {
            name: record
            for name, record in self.manifest["outputs"].items()
            if name not in NOT_IN_CONTENT_HASH
        }
        return digest(kept)

    def path(self, name: str) -> Path:
        """The file `name` of this artifact, checked against the manifest's SHA-256."""
        recorded = self.manifest["outputs"].get(name)
        path = self.folder / name
        if recorded is None:
            raise KeyError(f"{self.name} has no output {name}")
        if not path.is_file() or sha256_once(path) != recorded["sha256"]:
            raise UserError(
                f"{self.name}/{name} is not what its manifest recorded (changed, cut short or missing); "
                f"delete the folder {self.name} and run again to rebuild it"
            )
        return path

    def read_json(self, name: str) -> Any:
        return json.loads(self.path(name).read_text())


@dataclass(frozen=True)
class StageResult:
    """What a stage hands back beside the files in its folder."""

    metrics: dict[str, Any]  # becomes metrics.json
    summary: str  # what a person wants to read first
    manifest: dict[str, Any] = field(
        default_factory=dict
    )  # further entries of the manifest: privacy, device, ...
    most_images: int | None = None  # of a patient in training, for the ledger; private
    assumptions: tuple[str, ...] = ()  # further ones that its guarantee rests on, known only after the run
    release: str = ""  # tells apart two runs of the same settings whose random draws differ


@dataclass
class Output:
    """The folder that a running stage writes. Its `finish` makes it an artifact."""

    folder: Path
    cache: Cache
    identity: str = ""  # digest of all that the fingerprint hashes
    started: float = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).timestamp())

    def log(self, **event: Any) -> None:
        """Append one line to log.jsonl."""
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(plain(event), allow_nan=False) + "\n")

    def log_size(self) -> int:
        path = self.folder / "log.jsonl"
        return path.stat().st_size if path.exists() else 0

    def truncate_log(self, size: int) -> None:
        """Drop what was logged after the checkpoint that a run resumes from."""
        path = self.folder / "log.jsonl"
        if path.exists():
            os.truncate(path, size)

    def finish(self, manifest: Mapping[str, Any]) -> Artifact:
        """Record every file of the folder and write the manifest, last and atomically."""
        files = [path for path in walk_files(self.folder) if path.name not in (MANIFEST, *UNFINISHED)]
        outputs = {
            path.relative_to(self.folder).as_posix(): {"sha256": sha256(path), "size": path.stat().st_size}
            for path in files
        }
        finished = datetime.datetime.now(datetime.UTC).timestamp()
        timings = {
            "finished": _iso(finished),
            "started": _iso(self.started),
            "seconds": finished - self.started,
        }
        content = {
            "schema_version": SCHEMA_VERSION,
            **manifest,
            "timings": timings,
            "outputs": outputs,
            **environment(),
        }
        write_atomic(self.folder / MANIFEST, to_json(content))
        for leftover in UNFINISHED:  # not before: a run that is killed here has nothing to do again
            (self.folder / leftover).unlink(missing_ok=True)
        return Artifact(self.folder, json.loads(to_json(content)))


@dataclass(frozen=True)
class Store:
    """The root folder of all artifacts."""

    root: Path

    @classmethod
    def of(cls, config: Config) -> "Store":
        return cls(Path(config.outputs))

    @property
    def cache(self) -> Cache:
        return Cache(self.root / ".cache")

    def folder(self, stage: str, label: str, fp8: str) -> Path:
        """The one place of an artifact; what a file name cannot hold in the label becomes '_'."""
        return self.root / stage / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', label)}-{fp8}"

    def load(self, folder: Path) -> Artifact | None:
        """The artifact in `folder`, or None if it is not finished or was made by an older version of this software."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except json.JSONDecodeError:
            raise UserError(
                f"{folder.name}/{MANIFEST} is damaged; delete that folder and run again"
            ) from None
        return Artifact(folder, manifest) if manifest["schema_version"] == SCHEMA_VERSION else None

    def folders(self, stage: str) -> list[Path]:
        """All folders of a stage, finished or not, sorted by name."""
        parent = self.root / stage
        return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []

    def finished(self, stage: str) -> list[Artifact]:
        return [artifact for path in self.folders(stage) if (artifact := self.load(path)) is not None]

    @contextlib.contextmanager
    def lock(self, folder: Path) -> Iterator[bool]:
        """Hold the folder against other processes, waiting for as long as it takes.

        Yields whether another process had it first. The operating system frees the lock of a killed process.
        """
        lock = self._lock(folder)
        waited = False
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waited = True
            lock.acquire()
        try:
            yield waited
        finally:
            lock.release()

    def is_locked(self, folder: Path) -> bool:
        """Whether some process is working on the folder now."""
        lock = self._lock(folder)
        if not Path(lock.lock_file).exists():
            return False
        try:
            with lock.acquire(blocking=False):
                return False
        except Timeout:
            return True

    def _lock(self, folder: Path) -> FileLock:
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{folder.parent.name}-{folder.name}.lock")

    def begin(self, folder: Path, *, config_yaml: str, inputs: Mapping[str, str], fresh: bool) -> Output:
        """Open a folder for work: kept as it is to resume an unfinished run on the same content of `inputs`.

        It is emptied if `fresh`, if it is finished, or if an input has other content than when the run began.
        """
        content = to_json(inputs)
        begun = folder / INPUTS
        stale = (folder / MANIFEST).exists() or (begun.exists() and begun.read_text() != content)
        if (fresh or stale) and folder.exists():
            (folder / MANIFEST).unlink(
                missing_ok=True
            )  # first, so that a kill here leaves nothing half valid
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).unlink(missing_ok=True)
        write_atomic(folder / "config.yaml", config_yaml)
        write_atomic(begun, content)
        return Output(folder, self.cache)


def write_error(
    folder: Path, error: Exception, *, overrides: list[str], mask: "Mask", confidential: bool
) -> None:
    """Leave error.txt with the traceback of `error` and the overrides that led to it.

    Of `confidential` data, only our own sentences are kept: what a library says may quote a name.
    """
    if confidential:
        message = (
            str(error) if isinstance(error, UserError) else "message left out: it may quote confidential data"
        )
        text = f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}: {message}"
    else:
        text = "".join(traceback.format_exception(error))
    write_atomic(folder / ERROR, mask(f"overrides: {' '.join(overrides)}\n\n{text}"))


@dataclass(frozen=True)
class Mask:
    """Replaces paths of outside data by the key that named them, for every text that is kept.

    Of confidential data, what follows the path goes too: names of files may name patients.
    """

    paths: tuple[tuple[str, str], ...]  # (path, key), longest path first
    confidential: bool = False

    @classmethod
    def of(cls, keys: Mapping[str, str], *, confidential: bool = False) -> "Mask":
        """`keys` maps a configuration key to the path it holds."""
        pairs = {}
        for key, path in keys.items():
            forms = (path, os.path.abspath(path), os.path.realpath(path))
            pairs |= {form: key for form in forms if form.strip("./")}  # "." and "/" stand in any text
        return cls(tuple(sorted(pairs.items(), key=lambda pair: -len(pair[0]))), confidential)

    def __call__(self, text: str) -> str:
        below = r"(?:/[^\n]*)?" if self.confidential else ""
        for path, key in self.paths:
            text = re.sub(rf"(?<![\w/.-]){re.escape(path)}(?![\w-]){below}", f"<{key}>", text)
        return text


@cache
def environment() -> dict[str, Any]:
    """What produced an artifact, beyond its settings: git commit, package versions, machine."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = package_version(package)
    return {
        "git": _git(),
        "packages": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


@cache
def _git() -> dict[str, Any] | None:
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists():
        return None  # installed from a wheel

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _iso(timestamp: float) -> str:
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC).isoformat(timespec="seconds")
