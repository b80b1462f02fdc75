"""`stage=status`: what is built, what failed, what to run next. Reads manifests only; loads no torch, no pandas."""

from collections.abc import Iterable
from pathlib import Path

from mammo_dp.config import Config
from mammo_dp.engine.artifacts import ERROR, Artifact, Store
from mammo_dp.engine.stage import Stage
from mammo_dp.rounding import rounded_up

SHOWN = 6  # newest folders of a stage that are listed one by one


def describe(config: Config, stages: Iterable[Stage]) -> str:
    """The whole status as text, one block a stage."""
    store = Store.of(config)
    lines = [f"artifacts in {config.outputs}/"]
    following: str | None = None
    for stage in stages:
        finished = store.finished(stage.name)
        done = {artifact.folder for artifact in finished}
        open_folders = [folder for folder in store.folders(stage.name) if folder not in done]
        lines.append(f"\n{stage.name:<27} {stage.summary}")
        lines.append(f"  {len(finished)} finished, {len(open_folders)} not finished")
        newest = sorted(finished, key=lambda artifact: artifact.manifest["timings"]["finished"])
        if len(newest) > SHOWN:
            lines.append(f"  ... {len(newest) - SHOWN} older")
        lines += [f"  {_line(artifact)}" for artifact in newest[-SHOWN:]]
        lines += [line for folder in open_folders for line in _unfinished(store, folder)]
        if not finished and following is None and not stage.optional:
            following = stage.name
    lines.append(f"\nnext: {_next(following)}")
    return "\n".join(lines)


def _line(artifact: Artifact) -> str:
    summary = artifact.manifest.get("summary", "").splitlines()
    return "  ".join(filter(None, [artifact.folder.name, headline(artifact), summary[0] if summary else ""]))


def headline(artifact: Artifact) -> str:
    """What the ledger says in a few words, or nothing where no private data shaped a model."""
    worst = artifact.manifest.get("privacy", {}).get("ledger", {}).get("headline")
    if worst is None:
        return ""
    epsilon, because = worst["epsilon"], ""
    if worst["unlimited"]:
        because = f" ({worst['cohort']}: {worst['unlimited'][0]})"
    shown = rounded_up(epsilon, digits=4) if isinstance(epsilon, float) else epsilon or "unknown"
    return f"[end-to-end epsilon {shown} per {worst['unit']}{because}]"


def _unfinished(store: Store, folder: Path) -> list[str]:
    error = folder / ERROR
    if error.is_file():
        text = error.read_text().strip().splitlines()
        return [f"  {folder.name}  FAILED: {text[-1]}", f"    {text[0]}"]
    if store.is_locked(folder):
        return [f"  {folder.name}  running"]
    return [f"  {folder.name}  stopped; the same command resumes it"]


def _next(stage: str | None) -> str:
    if stage is None:
        return "python -m mammo_dp stage=report, after any new run"
    if stage == "extract_patches":
        return (
            "./scripts/demo.sh, or python -m mammo_dp stage=extract_patches dataset=NAME dataset.root=FOLDER"
        )
    return f"python -m mammo_dp stage={stage}, with the dataset and classifier of the stages before it"
