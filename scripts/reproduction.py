#!/usr/bin/env python
"""Write docs/reproduction.md from the finished runs of an outputs folder.

    python scripts/reproduction.py outputs > docs/reproduction.md

Every number of the paper (Table 1, Fig. 2) is a line: the paper's, ours where there is a run, on which stand-in, and
why the two differ. Runs of recipe=paper per image are taken, at the paper's delta; keep runs on other synthetic images
than the authors' in another folder.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mammo_dp.engine.artifacts import Artifact, Store
from mammo_dp.reporting import paper
from mammo_dp.stages import STAGES

DELTA = 1e-4
SWIN = "swin_tiny"
DATASETS = ("release", "cbis_ddsm", "cbis_bcdr", "bcdr")
TEST_SETS = {"cbis_ddsm": "CBIS-DDSM", "bcdr": "BCDR"}
METRICS = {"auroc": "AUROC", "auprc_benign": "AUPRC (benign)"}
SPACES = {"inception": "Inception", "radimagenet": "RadImageNet", "radiomics": "radiomics"}
HEAD = """# The paper's numbers and ours

Osuala et al. 2024: Table 1 (mean ± population standard deviation over seeds 42, 43, 44) and Fig. 2 (over three parts of
the patients). Ours: `recipe=paper`, image-level privacy, delta 1e-4, on the authors' released patches and synthetic
images; `n` is the number of seeds. Made by `python scripts/reproduction.py OUTPUTS > docs/reproduction.md`.
"""
NO_BCDR = "BCDR is given out on registration and was not at hand; with it, set dataset=cbis_bcdr"
NOT_RUN = "not run yet"


def finished(store: Store, stage: str) -> Iterator[tuple[Artifact, Any]]:
    """Artifacts of the present version of a stage, on the paper's data, with their configuration."""
    for artifact in store.finished(stage):
        config = OmegaConf.load(artifact.path("config.yaml"))
        if artifact.manifest["stage_version"] == STAGES[stage].version and config.dataset.name in DATASETS:
            yield artifact, config


def table_1(store: Store) -> Iterator[tuple[str, ...]]:
    """(setup, epsilon, test set, metric, paper, ours, stand-in, why) of each number of Table 1."""
    runs: dict[tuple[str, float], list[Artifact]] = {}
    for artifact, config in finished(store, "train_classifier"):
        epsilon = float(config.privacy.epsilon)
        papers = epsilon == paper.INF or (config.privacy.unit, config.privacy.delta) == ("image", DELTA)
        if config.recipe.name == "paper" and papers:
            runs.setdefault((config.experiment.name, epsilon), []).append(artifact)
    for experiment, epsilon in paper.ROWS:
        for source, test_set in TEST_SETS.items():
            for metric, name in METRICS.items():
                theirs = paper.score(experiment, epsilon, source, metric)
                assert theirs is not None
                ours, stand_in, why = _ours(runs.get((experiment, epsilon), []), source, metric)
                budget = "∞" if epsilon == paper.INF else f"{epsilon:g}"
                yield (
                    experiment,
                    budget,
                    test_set,
                    name,
                    f"{theirs.mean:.3f} ± {theirs.std:.3f}",
                    ours,
                    stand_in,
                    why,
                )


def _ours(artifacts: list[Artifact], source: str, metric: str) -> tuple[str, str, str]:
    values: dict[tuple[str, str], dict[int, float]] = {}
    for artifact in artifacts:
        test = artifact.read_json("metrics.json")["test"]
        if source in test:
            backbone, settings = artifact.manifest["backbone"], artifact.manifest["settings"]
            if not backbone["weights"].startswith("random"):
                key = (backbone["label"], settings["dataset"]["name"])
                values.setdefault(key, {})[settings["seed"]] = test[source][metric]
    if not values:
        return "", "", NO_BCDR if source == "bcdr" else NOT_RUN
    (backbone, dataset), seeds = max(
        values.items(), key=lambda item: (item[0][0].startswith(SWIN), len(item[1]))
    )
    numbers = list(seeds.values())
    ours = f"{statistics.fmean(numbers):.3f} ± {statistics.pstdev(numbers):.3f} (n = {len(numbers)})"
    swin = backbone.startswith(SWIN)
    why = "" if swin else "another backbone: Swin-T's weights are downloaded, and were not at hand"
    return ours, f"{backbone}, dataset={dataset}", why


def figure_2(store: Store) -> Iterator[tuple[str, ...]]:
    """(pair, space, paper, ours, stand-in, why) of each number of Fig. 2 and the authors' sheet."""
    measured: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for artifact, config in finished(store, "evaluate_synthetic"):
        if config.synthetic.name == "release":
            for found in artifact.read_json("metrics.json")["distances"]:
                if found["class"] == "all":
                    measured[found["first"], found["second"], found["metric"], found["space"]] = found
    for (first, second), name in paper.DISTANCES:
        metric, space = name.split()
        theirs = paper.distance((first, second), metric, space, "all")
        found = measured.get((first, second, metric, space))
        if found is not None and found["mean"] is not None:
            ours, why = f"{found['mean']:.3g} ± {found['std']:.2g}", "other masks and draws (docs/gan.md)"
        else:
            ours, why = (
                "",
                NO_BCDR
                if "external" in (first, second)
                else f"the space {SPACES[space]} needs weights or an extra",
            )
        yield f"{first} : {second}", f"{metric.upper()}, {SPACES[space]}", theirs, ours, why


def table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(store: Store) -> str:
    first = ("setup", "epsilon", "test set", "metric", "paper", "ours", "stand-in", "why they differ")
    second = ("pair", "distance", "paper", "ours", "why they differ")
    return (
        f"{HEAD}\n## Table 1\n\n{table(first, table_1(store))}\n\n## Fig. 2 and the authors' sheet\n\n"
        f"{table(second, figure_2(store))}\n\n{paper.SLIPS}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("outputs", type=Path)
    print(page(Store(parser.parse_args().outputs)), end="")


if __name__ == "__main__":
    main()
