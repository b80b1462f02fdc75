#!/usr/bin/env python
"""How the defaults of recipe=dp_gd were chosen: on phantom studies, never on clinical labels.

    python benchmarks/choose_dp_gd.py        # about 5 minutes on 2 cores

Phantoms of another seed than the toy's, as many training patches as the paper has (1104), features of swin_micro.
For each point of a grid over epochs, lr and C: AUROC on 200 held-out phantom patients, averaged over epsilon 1, 6 and
60 and five noise seeds. The rule, fixed before the first run: the point with the highest average is the default.
"""

import itertools
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from phantoms import auroc, cohort

from mammo_dp.cli import compose
from mammo_dp.files import Cache
from mammo_dp.models.backbone import build_backbone
from mammo_dp.models.features import all_flips, encoder
from mammo_dp.training.features import CachedFeatures, Preparation

EPSILONS, SEEDS = (1.0, 6.0, 60.0), range(5)
GRID = {"epochs": (50, 100, 200), "lr": (4.0, 8.0, 16.0), "max_grad_norm": (0.25, 0.5, 1.0)}


def main() -> None:
    (base,) = compose([["dataset=toy", "classifier=swin_micro", "recipe=dp_gd", "privacy.public_count=1104"]])
    train, held_out = cohort(base, 0, 491), cohort(base, 1, 200)
    encode = encoder(build_backbone(base.classifier), torch.device("cpu"), precision="float32")
    images, labels = (np.concatenate(pair) for pair in zip(train, held_out, strict=True))
    table = torch.cat(
        [all_flips(images[i : i + 64], encode, base.classifier) for i in range(0, len(images), 64)]
    )
    source = CachedFeatures(table, prepare=Preparation.of(base.recipe.model_dump()))
    cache = Cache(Path(tempfile.mkdtemp()))
    print(f"{len(train[1])} training patches, {len(held_out[1])} held out")
    print(f"{'epochs':>6} {'lr':>5} {'C':>5}  " + "  ".join(f"eps {e:g}" for e in EPSILONS) + "   mean")
    results = {}
    for epochs, lr, norm in itertools.product(*GRID.values()):
        means = []
        for epsilon in EPSILONS:
            scores = []
            for seed in SEEDS:
                recipe = base.recipe.model_copy(update={"epochs": epochs, "lr": lr, "max_grad_norm": norm})
                privacy = base.privacy.model_copy(update={"epsilon": epsilon})
                config = base.model_copy(update={"recipe": recipe, "privacy": privacy})
                scores.append(auroc(config, source, labels, len(train[1]), cache, seed))
            means.append(statistics.fmean(scores))
        results[epochs, lr, norm] = statistics.fmean(means)
        row = "  ".join(f"{m:.3f}" for m in means)
        print(f"{epochs:6} {lr:5g} {norm:5g}  {row}  {results[epochs, lr, norm]:.4f}", flush=True)
    epochs, lr, norm = max(results, key=results.__getitem__)
    print(f"highest: epochs {epochs}, lr {lr:g}, C {norm:g}")


if __name__ == "__main__":
    main()
