#!/usr/bin/env python
"""From the paper's recipe to the recommended one, one change at a time: AUROC with intervals over patients.

    python benchmarks/ablation.py 42,43,44 dataset=release dataset.root=FOLDER synthetic=release \
        classifier=mobilenetv2 classifier.weights=FILE outputs=outputs

Trains what is not finished yet (rows with Poisson batches take most of a minute a run on one core), then prints a
table for each unit of privacy: mean over seeds, the 95 % interval over patients, and the difference to the row above,
marked where its interval excludes zero. Differences are of the seeds that both rows have. `--table` as the first word
trains nothing.
"""

import sys
from functools import cache

import numpy as np
import pandas as pd

from mammo_dp import cli
from mammo_dp.engine.artifacts import Artifact
from mammo_dp.metrics.bootstrap import interval, patient_draws, weighted_metrics
from mammo_dp.stages import node_of

PAPER = "recipe=paper"
AVERAGED = f"{PAPER} recipe.select=average"
LINEAR = f"{AVERAGED} recipe.head=linear recipe.zero_init=true"
NORMALISED = f"{LINEAR} recipe.normalize_features=true"
FLIPPED = f"{NORMALISED} recipe.flips=all recipe.test_flips=true"
DESCENT = (
    f"{FLIPPED} recipe.optimizer=sgd recipe.lr=16 recipe.momentum=0.9 recipe.weight_decay=0.0 "
    "recipe.label_smoothing=0.0 recipe.max_grad_norm=0.5"
)
ROWS = {
    "paper (RDP accounting)": f"{PAPER} privacy.accountant=rdp",
    "PRV accounting": PAPER,
    "no epoch chosen: mean of the second half": AVERAGED,
    "linear head from zero": LINEAR,
    "features of unit length": NORMALISED,
    "all four flips in training and in test": FLIPPED,
    "SGD with momentum, C = 0.5, no smoothing": DESCENT,
    "full batches, 200 steps (dp_gd)": "recipe=dp_gd",
    "step size by the noise (dp_rule)": "recipe=dp_rule",
    "features of every stage": "recipe=dp_rule classifier.features=stages",
}
EPSILONS, UNITS, SOURCE = ("1", "6", "60", "inf"), ("image", "patient"), "cbis_ddsm"


def artifact_of(words: list[str], *, train: bool) -> Artifact | None:
    if train:
        cli.main([*words, "build_inputs=true"])
    (config,) = cli.compose([words])
    return node_of(config).artifact()


@cache
def draws(patients: tuple[str, ...]) -> np.ndarray:
    return patient_draws(np.array(patients))


def resampled(artifact: Artifact) -> tuple[float, np.ndarray]:
    """AUROC of one run on the test set, and in each resample of its patients."""
    table = pd.read_csv(artifact.path("predictions.csv"), dtype={"patient": str})
    table = table[(table["split"] == "test") & (table["source"] == SOURCE)]
    columns = table["malignant"].to_numpy(np.int64), table["p_malignant"].to_numpy(float)
    each = draws(tuple(table["patient"]))
    whole = weighted_metrics(*columns, np.ones((1, len(table)), dtype=np.float32))["auroc"]
    return float(whole[0]), weighted_metrics(*columns, each)["auroc"]


def cell(runs: dict[str, tuple[float, np.ndarray]], above: dict[str, tuple[float, np.ndarray]] | None) -> str:
    if not runs:
        return "–"
    values = [value for value, _ in runs.values()]
    low, high = interval(np.mean([drawn for _, drawn in runs.values()], axis=0)) or (np.nan, np.nan)
    text = f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"
    shared = [seed for seed in runs if above and seed in above]
    if above and shared:
        gain = np.mean([runs[s][0] - above[s][0] for s in shared])
        drawn = np.mean([runs[s][1] - above[s][1] for s in shared], axis=0)
        ends = interval(drawn)
        clear = ends is not None and (ends[0] > 0 or ends[1] < 0)
        text += f" {gain:+.3f}{'*' if clear else ''}"
    return text


def main() -> None:
    arguments = [word for word in sys.argv[1:] if word != "--table"]
    seeds, common = arguments[0].split(","), arguments[1:]
    train = "--table" not in sys.argv
    for unit in UNITS:
        print(f"\nPer {unit}\n\n| change | seeds | " + " | ".join(f"eps {e}" for e in EPSILONS) + " |")
        print("|---|---|" + "---|" * len(EPSILONS))
        before: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
        for name, words in ROWS.items():
            found: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
            for epsilon in EPSILONS:
                found[epsilon] = {}
                for seed in seeds:
                    given = [
                        *common, "stage=train_classifier", *words.split(), f"seed={seed}", f"privacy.unit={unit}",
                        f"privacy.epsilon={epsilon}",
                    ]  # fmt: skip
                    artifact = artifact_of(given, train=train)
                    if artifact is not None:
                        found[epsilon][seed] = resampled(artifact)
            count = max(len(runs) for runs in found.values())
            cells = [cell(found[e], before.get(e)) for e in EPSILONS]
            print(f"| {name} | {count} | " + " | ".join(cells) + " |", flush=True)
            before = found


if __name__ == "__main__":
    main()
