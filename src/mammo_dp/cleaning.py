"""`stage=clean`: artifacts that nothing needs any more. They are listed; only clean.apply=true deletes them."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mammo_dp.artifacts import Artifact, Store
from mammo_dp.config import Config
from mammo_dp.files import walk_files
from mammo_dp.graph import STAGES

SWEEPS = ".sweeps"  # of launchers, in the root of artifacts
SWEEPS_OLD = (
    24 * 3600
)  # seconds without a change after which files of a cluster's jobs are taken for left over
KEPT = (
    "train_classifier",
    "evaluate_synthetic",
    "audit_privacy",
    "export",
    "predict",
    "train_gan",
)  # wanted for themselves, or days of work


@dataclass(frozen=True)
class Needless:
    """A folder that may go, and why."""

    folder: Path
    why: str

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in walk_files(self.folder))


def needless(store: Store) -> list[Needless]:
    """What nothing needs: outdated versions, superseded reports, inputs whose place others have taken.

    What a process is working on, and what has begun and can go on, stays.
    """
    found: list[Needless] = []
    current: dict[str, Artifact] = {}
    for name, stage in STAGES.items():
        for folder in store.folders(name):
            if store.is_locked(folder):
                continue
            artifact = store.load(folder)
            if artifact is None:
                if (folder / "manifest.json").exists():
                    found.append(
                        Needless(folder, "made by an older version of this software, and not read any more")
                    )
                continue
            if artifact.manifest["stage_version"] != stage.version:
                found.append(Needless(folder, "made by an older version of its stage, and not read any more"))
            else:
                current[artifact.name] = artifact
    reports = [a for a in current.values() if a.manifest["stage"] == "report"]
    newest = max(reports, key=lambda a: a.manifest["timings"]["finished"], default=None)
    found += [Needless(a.folder, "a newer report stands") for a in reports if a is not newest]
    needed: set[str] = set()

    def keep(name: str) -> None:
        if name in current and name not in needed:
            needed.add(name)
            for record in current[name].manifest["inputs"].values():
                keep(record["artifact"])

    for name, artifact in current.items():
        if artifact.manifest["stage"] in KEPT:
            keep(name)
    # what has begun may go on with any of them
    begun = any(store.load(folder) is None for stage in STAGES for folder in store.folders(stage))
    used = {_kind(current[name]) for name in needed}
    for name, artifact in current.items():
        if begun or artifact.manifest["stage"] in (*KEPT, "report") or name in needed:
            continue
        if _kind(artifact) in used:  # never the only one of its kind: its results may still be to come
            found.append(
                Needless(artifact.folder, "no result was made from it, but from another of its kind")
            )
    sweeps = store.root / SWEEPS
    for folder in sorted(sweeps.iterdir()) if sweeps.is_dir() else []:
        if not store.is_locked(folder) and time.time() - _changed(folder) > SWEEPS_OLD:
            found.append(Needless(folder, "left by a sweep that was killed"))
    return found


def _changed(folder: Path) -> float:
    return max([folder.stat().st_mtime, *(path.stat().st_mtime for path in walk_files(folder))])


def _kind(artifact: Artifact) -> tuple[str, str]:
    return artifact.manifest["stage"], artifact.manifest["label"]


def clean(config: Config) -> str:
    """List what may go, or delete it; what it says to a person."""
    store = Store(Path(config.outputs))
    found = needless(store)
    if not found:
        return "nothing to clean: everything that is there is needed"
    lines = [
        f"{item.size / 1e6:9.1f} MB  {item.folder.relative_to(store.root)}  ({item.why})" for item in found
    ]
    if not config.clean.apply:
        return "\n".join([*lines, "nothing was deleted; clean.apply=true deletes these"])
    for item in found:
        with store.lock(item.folder):
            (item.folder / "manifest.json").unlink(
                missing_ok=True
            )  # first: what is half deleted is not finished
            shutil.rmtree(item.folder)
    return "\n".join([*lines, f"{len(found)} folders deleted"])
