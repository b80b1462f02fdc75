"""Choose recipe.components, recipe.whitening and recipe.epochs of dp_public on labels of a public task.

    python benchmarks/choose_public.py SHARED BACKBONE_WEIGHTS      # ultrasound masses (BUSI) and mini-MIAS patches

SHARED holds data/public (busi_patches, mias_patches, index.csv). The directions are learnt from the mammograms, the
heads are trained and tested on ultrasound images of other people: no label of a mammogram is read.

The rule: train heads on random 80 % of the ultrasound images, test them on the rest, 100 times, at epsilon 1 and 6 per
image; of the settings whose mean AUROC over both budgets is within one standard error of the highest, take the fewest
components, then the fewest epochs, then the highest AUROC (the one-standard-error rule, Breiman et al. 1984).
Candidates have at most 64 components, about half of the 119 lesions of mini-MIAS: a default has to work with so few
public images.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from mammo_dp import cli
from mammo_dp.audit.retrains import Rows, retrain
from mammo_dp.models.preparation import Directions, Preparation
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.gaussian import gaussian_mu
from mammo_dp.stages import node_of
from mammo_dp.training.features import FEATURES
from mammo_dp.training.optimizers import learning_rate
from mammo_dp.training.plans import Plan

COMPONENTS, WHITENING, EPOCHS = (16, 32, 64), (0.0, 0.5, 1.0), (50, 100, 200)
EPSILONS, REPEATS, TRAINED_ON = (1.0, 6.0), 100, 0.8


def features_of(name: str, folder: Path, weights: Path, outputs: Path) -> torch.Tensor:
    """(n, 4, d), in the order of the files."""
    words = ["stage=extract_public_features", "dataset=release", "classifier=mobilenetv2", "public=patches",
             f"classifier.weights={weights}", f"public.root={folder}", f"public.name={name}",
             f"public.population={name}", f"outputs={outputs}",
             "build_inputs=true"]  # fmt: skip
    if cli.main(words) != cli.DONE:
        sys.exit("the features could not be computed")
    artifact = node_of(cli.compose([words])[0]).artifact()
    assert artifact is not None
    return load_file(artifact.path(FEATURES))["features"]


def aurocs(x: torch.Tensor, labels: np.ndarray, recipe, epsilon: float) -> np.ndarray:
    """(REPEATS,) of heads that are each trained on their own part of the images."""
    generator = torch.Generator().manual_seed(0)
    n = len(labels)
    count = round(TRAINED_ON * n)
    members = torch.stack([torch.randperm(n, generator=generator) < count for _ in range(REPEATS)], dim=1)
    sigma = recipe.epochs**0.5 / gaussian_mu(epsilon, delta=1e-4)
    mechanism = Mechanism(1.0, sigma, recipe.epochs)
    plan = Plan(recipe.epochs, 1, mechanism, first_eligible_step=0, public_count=count)
    rows = Rows.of(x, torch.from_numpy(labels)[:, None], torch.arange(n)[:, None])
    heads = retrain(
        [rows], members, mechanism=mechanism, steps=recipe.epochs, count=count, recipe=recipe,
        lr=learning_rate(recipe, plan), start=torch.zeros(x.shape[-1] + 1), generator=generator,
    )  # fmt: skip
    scores = (x[:, 0] @ heads[:-1] + heads[-1]).numpy()
    kept = members.numpy()
    return np.array([roc_auc_score(labels[~kept[:, i]], scores[~kept[:, i], i]) for i in range(REPEATS)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shared", type=Path)
    parser.add_argument("weights", type=Path)
    arguments = parser.parse_args()
    public = arguments.shared.resolve() / "data/public"
    index = pd.read_csv(public / "index.csv")
    busi = index[index["patch"].str.startswith("busi_patches/")].sort_values("patch")
    labels = busi["malignant"].to_numpy(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: features_of(name, public / f"{name}_patches", arguments.weights.resolve(), Path(folder))
            for name in ("busi", "mias")
        }
    (config,) = cli.compose([["dataset=release", "recipe=dp_public"]])
    table = []
    for components, whitening, epochs in itertools.product(COMPONENTS, WHITENING, EPOCHS):
        recipe = config.recipe.model_copy(
            update={"components": components, "whitening": whitening, "epochs": epochs}
        )
        directions = Directions.fit(found["mias"], components=components, whitening=whitening)
        x = Preparation(normalize=True, norm=recipe.feature_norm, average=True, directions=directions)(
            found["busi"]
        )
        scores = [aurocs(x, labels, recipe, epsilon) for epsilon in EPSILONS]
        both = np.mean(scores, axis=0)
        table.append((components, epochs, -float(both.mean()), whitening, float(both.std() / REPEATS**0.5)))
        shown = ", ".join(f"{e:g}: {s.mean():.3f}" for e, s in zip(EPSILONS, scores, strict=True))
        print(
            f"components {components:>3}  whitening {whitening:.1f}  epochs {epochs:>3}  AUROC at epsilon {shown}",
            flush=True,
        )
    highest = min(table, key=lambda line: line[2])
    components, epochs, score, whitening, _ = min(
        line for line in table if line[2] <= highest[2] + highest[4]
    )
    print(f"highest {-highest[2]:.4f}, standard error {highest[4]:.4f}; chosen: components {components}, whitening "
          f"{whitening}, epochs {epochs} ({-score:.4f})")  # fmt: skip


if __name__ == "__main__":
    main()
