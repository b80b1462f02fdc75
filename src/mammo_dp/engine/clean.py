"""`stage=clean`: artifacts that nothing needs any more. They are listed; only clean.apply=true deletes them."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammo_dp.config import Config
from mammo_dp.engine.artifacts import MANIFEST, Artifact, Store
from mammo_dp.engine.launch import FOLDER as SWEEPS
from mammo_dp.engine.stage import Stage
from mammo_dp.files import walk_files

# seconds without a change after which files of a cluster's jobs count as left over
SWEEPS_OLD = 24 * 3600


@dataclass(frozen=True)
class Removable:
    """A folder that may go, and why."""

    folder: Path
    why: str

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in walk_files(self.folder))


def removable(store: Store, stages: Mapping[str, Stage]) -> list[Removable]:
    """What nothing needs: outdated versions, superseded reports, inputs whose place others have taken.

    What a process is working on, and what can be resumed, stays.
    """
    found, current = _outdated(store, stages)
    collections = [a for a in current if stages[a.manifest["stage"]].collects]
    newest = max(collections, key=lambda a: a.manifest["timings"]["finished"], default=None)
    found += [Removable(a.folder, "there is a newer report") for a in collections if a is not newest]
    # what can be resumed may need any of the others
    if not any(store.load(folder) is None for stage in stages for folder in store.folders(stage)):
        found += _unused([a for a in current if a not in collections], stages)
    sweeps = store.root / SWEEPS
    for folder in sorted(sweeps.iterdir()) if sweeps.is_dir() else []:
        if not store.is_locked(folder) and time.time() - _changed(folder) > SWEEPS_OLD:
            found.append(Removable(folder, "left by a sweep that was killed"))
    return found


def _outdated(store: Store, stages: Mapping[str, Stage]) -> tuple[list[Removable], list[Artifact]]:
    """Artifacts of older versions, and the current ones."""
    found: list[Removable] = []
    current: list[Artifact] = []
    for name, stage in stages.items():
        for folder in store.folders(name):
            artifact = None if store.is_locked(folder) else store.load(folder)
            if artifact is not None and artifact.manifest["stage_version"] == stage.version:
                current.append(artifact)
            elif artifact is not None:
                found.append(
                    Removable(folder, "made by an older version of its stage, and not read any more")
                )
            elif (folder / MANIFEST).exists() and not store.is_locked(folder):
                found.append(
                    Removable(folder, "made by an older version of this software, and not read any more")
                )
    return found, current


def _unused(artifacts: Sequence[Artifact], stages: Mapping[str, Stage]) -> list[Removable]:
    """Inputs from which no kept artifact was made, where one was made from another of the same kind."""
    by_name = {artifact.name: artifact for artifact in artifacts}
    needed: set[str] = set()

    def keep(name: str) -> None:
        if name in by_name and name not in needed:
            needed.add(name)
            for record in by_name[name].manifest["inputs"].values():
                keep(record["artifact"])

    for name, artifact in by_name.items():
        if stages[artifact.manifest["stage"]].kept:
            keep(name)
    used = {
        _kind(by_name[name]) for name in needed
    }  # never the only one of its kind: its results may still come
    return [
        Removable(artifact.folder, "no result was made from it, but from another of its kind")
        for name, artifact in by_name.items()
        if name not in needed and _kind(artifact) in used
    ]


def _changed(folder: Path) -> float:
    return max([folder.stat().st_mtime, *(path.stat().st_mtime for path in walk_files(folder))])


def _kind(artifact: Artifact) -> tuple[str, str]:
    return artifact.manifest["stage"], artifact.manifest["label"]


def clean(config: Config, stages: Mapping[str, Stage]) -> str:
    """List what may go, or delete it; what it says to a person."""
    store = Store.of(config)
    found = removable(store, stages)
    if not found:
        return "nothing to clean: everything that is there is needed"
    lines = [
        f"{item.size / 1e6:9.1f} MB  {item.folder.relative_to(store.root)}  ({item.why})" for item in found
    ]
    if not config.clean.apply:
        return "\n".join([*lines, "nothing was deleted; clean.apply=true deletes these"])
    for item in found:
        with store.lock(item.folder):
            (item.folder / MANIFEST).unlink(missing_ok=True)  # first: what is half deleted is not finished
            shutil.rmtree(item.folder)
    return "\n".join([*lines, f"{len(found)} folders deleted"])
