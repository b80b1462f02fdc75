"""`stage=report`: every finished classifier -> table1.csv, table1.md and report.html."""

from collections.abc import Mapping

from mammo_dp.artifacts import Artifact, Output, StageResult, environment
from mammo_dp.config import Config
from mammo_dp.reporting import table1
from mammo_dp.reporting.html import page


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    found = table1.studies(table1.Run.of(artifact) for artifact in inputs.values())
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
    return StageResult(
        metrics={"runs": len(inputs), "tables": len(found)}, summary=table1.markdown(found, privacy=False)
    )
