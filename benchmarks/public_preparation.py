"""The tables of docs/recipes.md: public preparation against the other recipes, with controls, on CBIS-DDSM.

    python benchmarks/public_preparation.py SHARED BACKBONE_WEIGHTS [--outputs FOLDER]

SHARED holds data/release and data/public. AUROC on the 402 test images, mean over seeds (30 at epsilon 1 and 6, else 3)
and standard deviation over them; in brackets the 95 % interval of that mean over patients. Controls: training labels
permuted, and features with noise of 1e-6, which must move nothing. Nothing is chosen here.
"""

import argparse
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from mammo_dp import cli
from mammo_dp.config import Config
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Artifact
from mammo_dp.files import Cache
from mammo_dp.metrics.bootstrap import interval, patient_draws
from mammo_dp.metrics.classification import weighted_metrics
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.stages import node_of
from mammo_dp.training.build import Task, start
from mammo_dp.training.plans import make_plan
from mammo_dp.training.units import training_patches, training_units, validation_rows

EPSILONS = ("1", "6", "12", "20", "60", "inf")
UNITS = ("image", "patient")
STABILITY_NOISE = 1e-6


def seeds(epsilon: str) -> range:
    return range(42, 72 if epsilon in ("1", "6") else 43 if epsilon == "inf" else 45)


class Study:
    """The release with one set of public images."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.known: dict[str, dict[str, Artifact | None]] = {}
        inputs = (
            "fit_preparation" if any(word.startswith("public=") for word in words) else "extract_features"
        )
        for stage in ("extract_features", inputs):
            if cli.main([*words, f"stage={stage}", "build_inputs=true"]) != cli.DONE:
                sys.exit(f"{stage} failed")

    def run(self, *words: str, seed: int, permuted: bool = False, noise: float = 0.0) -> np.ndarray:
        """Scores of the test images by one run."""
        config = self._config(words).model_copy(update={"seed": seed})
        inputs = self._inputs(config)
        patches = training_patches(inputs)
        self.patches, self.test = patches, patches.rows("test")
        if permuted:
            train = patches.rows("train")
            index = patches.index.copy()
            shuffled = np.random.default_rng(seed).permutation(train)
            index.loc[train, "malignant"] = index.loc[shuffled, "malignant"].to_numpy()
            patches = replace(patches, index=index)
        units, public = training_units(patches, config)
        plan = make_plan(config, units=len(units), cache=Cache(Path(config.outputs) / ".cache"))
        task = Task(
            config,
            patches,
            units,
            public,
            plan,
            Randomness(secure=False, seed=seed, run="table"),
            torch.device("cpu"),
        )
        trainer, scores = start(task, inputs)
        if noise:
            table = trainer.source.table  # type: ignore[union-attr]
            table += noise * torch.randn(table.shape, generator=torch.Generator().manual_seed(seed))
        after = (
            trainer.best_val(lambda: self._validation(config, patches, scores))
            if config.recipe.select == "best_val"
            else None
        )
        for step in range(1, plan.steps + 1):
            trainer.step()
            if after is not None and step % plan.steps_per_epoch == 0:
                after(trainer.epoch)
        trainer.selection.network.load_state_dict(trainer.selection.selected()[0])
        return scores(self.test)

    @cache  # noqa: B019
    def _config(self, words: tuple[str, ...]) -> Config:
        return cli.compose([[*self.words, "stage=train_classifier", *words]])[0]

    def _inputs(self, config: Config) -> dict[str, Artifact]:
        """What the run reads, looked up once for each recipe."""
        if config.recipe.name not in self.known:
            nodes = node_of(config).inputs
            self.known[config.recipe.name] = {role: node.artifact() for role, node in nodes.items()}
        return {
            role: artifact
            for role, artifact in self.known[config.recipe.name].items()
            if artifact is not None
        }

    @staticmethod
    def _validation(config: Config, patches: PatchSet, scores) -> tuple[np.ndarray, np.ndarray]:
        rows = validation_rows(patches, config)
        return patches.malignant[rows], scores(rows)

    def cell(self, epsilon: str, unit: str, *words: str, **changed) -> str:
        """'.714 ± .013 [.66, .76]'."""
        asked = (f"privacy.epsilon={epsilon}", f"privacy.unit={unit}", *words)
        found = [self.run(*asked, seed=seed, **changed) for seed in seeds(epsilon)]
        labels, draws = self.patches.malignant[self.test], patient_draws(self.patches.patients[self.test])
        whole = np.ones((1, len(labels)))
        values = [float(weighted_metrics(labels, scores, whole)["auroc"][0]) for scores in found]
        drawn = np.mean([weighted_metrics(labels, scores, draws)["auroc"] for scores in found], axis=0)
        low, high = interval(drawn)
        spread = f" ± {np.std(values):.3f}" if len(values) > 1 else ""
        return f"{np.mean(values):.3f}{spread} [{low:.3f}, {high:.3f}]"


def stability(study: Study, recipe: str) -> str:
    """How far noise of STABILITY_NOISE in the head's inputs moves the AUROC without privacy."""
    words = (f"recipe={recipe}", "privacy.epsilon=inf", "privacy.unit=image")
    one = np.ones((1, len(study.test)))
    labels = study.patches.malignant[study.test]
    before, after = (
        float(weighted_metrics(labels, study.run(*words, seed=42, noise=noise), one)["auroc"][0])
        for noise in (0.0, STABILITY_NOISE)
    )
    return f"{before:.4f} -> {after:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shared", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    arguments = parser.parse_args()
    data = arguments.shared.resolve() / "data"
    base = ["dataset=release", f"dataset.root={data}/release", "classifier=mobilenetv2",
            f"classifier.weights={arguments.weights.resolve()}", f"outputs={arguments.outputs}"]  # fmt: skip
    folder = [
        "public=patches",
        f"public.root={data}/public/mias_patches",
        "public.name=mias",
        "public.population=mini-MIAS",
    ]
    films = [
        "public=mammograms",
        f"public.root={data}/public/mias_whole",
        "public.name=mias_whole",
        "public.population=mini-MIAS",
    ]
    rows = {
        "dp_gd": (base, ("recipe=dp_gd",), {}),
        "dp_rule": (base, ("recipe=dp_rule",), {}),
        "dp_public, phantoms": ([*base, "public=toy"], (), {}),
        "dp_public, crops of 20 whole films": ([*base, *films], (), {}),
        "dp_public, 326 patches": ([*base, *folder], (), {}),
        "the same, training labels permuted": ([*base, *folder], (), {"permuted": True}),
    }
    for unit in UNITS:
        print(
            f"\nPer {unit}:\n\n| recipe, public images | " + " | ".join(f"eps {e}" for e in EPSILONS) + " |"
        )
        print("|---|" + "---|" * len(EPSILONS))
        for name, (words, more, changed) in rows.items():
            study = Study(words)
            asked = EPSILONS if not changed else ("1", "6", "inf")
            cells = [study.cell(e, unit, *more, **changed) if e in asked else "" for e in EPSILONS]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nNoise of {STABILITY_NOISE:g} in the head's inputs, epsilon inf:")
    for recipe in ("dp_gd", "dp_rule", "dp_public", "paper"):
        study = Study([*base, *folder])
        study.run("privacy.epsilon=inf", seed=42)
        print(f"{recipe}: {stability(study, recipe)}", flush=True)


if __name__ == "__main__":
    main()
