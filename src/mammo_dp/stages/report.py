"""`stage=report`: every finished classifier -> table1.csv, table1.md and report.html."""

from collections.abc import Mapping, Sequence

from mammo_dp.artifacts import Artifact, Output, StageResult, environment
from mammo_dp.config import Config
from mammo_dp.files import Cache
from mammo_dp.privacy.ledger import Ledger, events_of
from mammo_dp.reporting import table1
from mammo_dp.reporting.html import page


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    found = table1.studies(
        (table1.Run.of(artifact) for artifact in inputs.values()),
        together=lambda runs: _seeds_together(runs, output.cache),
    )
    table1.numbers(found).to_csv(output.folder / "table1.csv", index=False)
    (output.folder / "table1.md").write_text(table1.markdown(found))
    made_by = environment()
    provenance = {
        "runs": len(inputs),
        "artifacts": ", ".join(sorted(artifact.folder.name for artifact in inputs.values())),
        "code": f"commit {made_by['git']['commit']}" if made_by["git"] else "installed package",
        "packages": ", ".join(f"{name} {version}" for name, version in made_by["packages"].items()),
    }
    (output.folder / "report.html").write_text(page(found, provenance=provenance))
    images = [
        account["images_per_patient"]
        for artifact in inputs.values()
        for account in artifact.manifest["privacy"]["ledger"]["accounts"]
    ]
    return StageResult(
        metrics={"runs": len(inputs), "tables": len(found)},
        summary=table1.markdown(found, privacy=False),
        most_images=max((k for k in images if k is not None), default=None),
    )


def _seeds_together(runs: Sequence[table1.Run], cache: Cache) -> float | None:
    """Epsilon of the training mechanisms of several seeds together, or None where nothing limits one of them."""
    events = [event for event in events_of(run.ledger for run in runs) if event.mechanism is not None]
    if len(events) < len(runs):
        return None
    ledger = Ledger(
        tuple(events), claimed=events[0].unit, delta=runs[0].ledger["headline"]["delta"], cache=cache
    )
    return ledger.headline_epsilon
