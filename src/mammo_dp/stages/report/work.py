"""`stage=report`: every finished classifier -> report.html, and its tables as CSV, Markdown and LaTeX."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd

from mammo_dp.config import Config
from mammo_dp.engine.artifacts import Artifact, Output, StageResult, environment
from mammo_dp.files import Cache
from mammo_dp.privacy.events import Unit
from mammo_dp.privacy.ledger import Ledger, events_of
from mammo_dp.reporting import table1
from mammo_dp.reporting.audits import audits
from mammo_dp.reporting.collect import Run
from mammo_dp.reporting.details import details
from mammo_dp.reporting.html import Figure2, Together, page
from mammo_dp.reporting.pairs import pairs


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    classifiers = {n: a for n, a in inputs.items() if a.manifest["stage"] == "train_classifier"}
    found = table1.studies(
        (Run.of(artifact, cache=output.cache) for artifact in classifiers.values()),
        together=lambda runs: _seeds_together(runs, output.cache),
    )
    differences = [pairs(study) for study in found]
    audited = [audits(study, _audits(inputs, classifiers)) for study in found]
    for name, table in (
        ("table1.csv", table1.numbers(found)),
        ("details.csv", _joined([details(study) for study in found], found)),
        ("pairs.csv", _joined(differences, found)),
        ("audits.csv", _joined(audited, found)),
    ):
        table.to_csv(output.folder / name, index=False, float_format="%.9g")
    (output.folder / "table1.md").write_text(table1.markdown(found))
    (output.folder / "table1.tex").write_text(table1.latex(found))
    evaluations = [
        a for a in inputs.values() if a.manifest["stage"] == "evaluate_synthetic" and not _shows_training(a)
    ]
    text = page(
        found,
        provenance=_provenance(inputs),
        together=[_all_together(study, output.cache) for study in found],
        pairs=differences,
        audited=audited,
        figure2=[_figure2(artifact) for artifact in evaluations],
    )
    (output.folder / "report.html").write_text(text)
    images = [
        account["images_per_patient"]
        for artifact in classifiers.values()
        for account in artifact.manifest["privacy"]["ledger"]["accounts"]
    ]
    return StageResult(
        metrics={"runs": len(classifiers), "tables": len(found)},
        summary=table1.markdown(found, narrow=True),
        most_images=max((k for k in images if k is not None), default=None),
    )


def _joined(tables: Sequence[pd.DataFrame], found: Sequence[table1.Study]) -> pd.DataFrame:
    named = [t.assign(study=study.title) for t, study in zip(tables, found, strict=True) if len(t)]
    return pd.concat(named) if named else pd.DataFrame()


def _audits(
    inputs: Mapping[str, Artifact], classifiers: Mapping[str, Artifact]
) -> dict[str, list[dict[str, Any]]]:
    """Metrics of the audits of each classifier, but for those of runs that have been trained again since."""
    found: dict[str, list[dict[str, Any]]] = {}
    for artifact in inputs.values():
        if artifact.manifest["stage"] == "audit_privacy":
            attacked = artifact.manifest["inputs"]["classifier"]
            now = classifiers.get(attacked["artifact"])
            if now is not None and now.content == attacked["content"]:
                found.setdefault(now.name, []).append(artifact.read_json("metrics.json"))
    return found


def _shows_training(evaluation: Artifact) -> bool:
    """Whether its figure and distances must not be released: those of a private generator's training images."""
    events = events_of([evaluation.manifest["privacy"]["ledger"]])
    return any(
        e.effect == "internal" and e.cohort == "training" and e.stage == "evaluate_synthetic" for e in events
    )


def _figure2(artifact: Artifact) -> Figure2:
    table = pd.read_csv(artifact.path("distances.csv"), keep_default_na=False)
    return Figure2(
        title=artifact.manifest["label"],
        png=artifact.path("figure2.png").read_bytes(),
        table=table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)),
    )


def _provenance(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    made_by = environment()
    commits = sorted({(a.manifest["git"] or {}).get("commit", "installed package") for a in inputs.values()})
    dirty = any((a.manifest["git"] or {}).get("dirty") for a in inputs.values())
    return {
        "runs": str(len(inputs)),
        # not their names: these change with any file of any patient
        "artifacts": ", ".join(f"{count} of {stage}" for stage, count in sorted(_stages(inputs).items())),
        "code of the runs": ", ".join(commits) + (" with changes that are in no commit" if dirty else ""),
        "code of this page": f"commit {made_by['git']['commit']}" if made_by["git"] else "installed package",
        "packages": ", ".join(f"{name} {version}" for name, version in made_by["packages"].items()),
    }


def _stages(inputs: Mapping[str, Artifact]) -> Counter[str]:
    return Counter(artifact.manifest["stage"] for artifact in inputs.values())


def _all_together(study: table1.Study, cache: Cache) -> list[Together]:
    """What all private runs of a table reveal together, apart for those at image level and those at patient level."""
    runs = [run for row in study.rows for run in row.runs if run.epsilon != float("inf")]
    found = []
    for unit in get_args(Unit):
        mine = [run for run in runs if run.ledger["headline"] and run.ledger["headline"]["unit"] == unit]
        epsilon = _seeds_together(mine, cache) if mine else None
        if epsilon is not None:
            found.append(Together(unit, len(mine), epsilon))
    return found


def _seeds_together(runs: Sequence[Run], cache: Cache) -> float | None:
    """Epsilon of the training mechanisms of several seeds together, or None where nothing limits one of them."""
    own = [
        [e for e in events_of([run.ledger]) if e.stage == "train_classifier" and e.mechanism is not None]
        for run in runs
    ]
    if not all(own):
        return None
    events = dict.fromkeys(event for found in own for event in found)
    ledger = Ledger(
        tuple(events), claimed=own[0][0].unit, delta=runs[0].ledger["headline"]["delta"], cache=cache
    )
    return ledger.headline_epsilon
