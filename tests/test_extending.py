"""What CONTRIBUTING.md promises: each part is added in one place. Here each is added from outside the package."""

import json
from collections.abc import Iterator

import cv2
import numpy as np
import torch

from mammo_dp import cli
from mammo_dp.data.readers import READERS
from mammo_dp.data.records import Lesion, WholeImage
from mammo_dp.engine.artifacts import StageResult
from mammo_dp.engine.stage import Input, Stage
from mammo_dp.metrics.classification import METRICS, Metric
from mammo_dp.stages import STAGES
from mammo_dp.training.optimizers import OPTIMIZERS
from tests.conftest import Workplace


class CountPatches(Stage):
    name = "count_patches"
    summary = "patches -> their number"
    version = 1
    uses = ("patches.size",)

    def label(self, config):
        return config.dataset.name

    def inputs(self, config):
        return {"patches": Input("extract_patches")}

    def events(self, config, cache):
        return ()

    def run(self, config, inputs, output):
        count = len(inputs["patches"].path("index.csv").read_text().splitlines()) - 1
        return StageResult(metrics={"patches": count}, summary=f"{count} patches")


def test_a_stage(small, monkeypatch, capsys):
    monkeypatch.setitem(STAGES, "count_patches", CountPatches())
    assert small.run(*small.small, "stage=count_patches") == cli.DONE
    (folder,) = small.folders("count_patches")
    assert json.loads((folder / "metrics.json").read_text()) == {"patches": 68}
    assert json.loads((folder / "manifest.json").read_text())["privacy"]["ledger"]["events"] == []
    assert small.run("--help", "count_patches") == cli.DONE
    assert "patches -> their number" in capsys.readouterr().out


def test_a_metric(small, monkeypatch):
    """It gets its interval, and its place in the table."""
    brier = Metric(
        "brier", "Brier score", lambda y, p: float(((p - y) ** 2).mean()),
        lambda r: (r.weights @ (r.p_malignant - r.malignant) ** 2) / r.weights.sum(axis=1), in_details=True,
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "brier", brier)
    words = (*small.small, "stage=train_classifier", "recipe=dp_gd", "recipe.epochs=2", "seed=77")
    assert small.run(*words) == cli.DONE
    (folder,) = (f for f in small.folders("train_classifier") if f.name.startswith("real-eps6-seed77"))
    test = json.loads((folder / "metrics.json").read_text())["test"]["toy_cbis"]
    low, high = test["intervals"]["brier"]
    assert low < test["brier"] < high


def test_an_optimizer_and_a_recipe(small, monkeypatch):
    monkeypatch.setitem(
        OPTIMIZERS, "adagrad", lambda parameters, lr, recipe: torch.optim.Adagrad(parameters, lr=lr)
    )
    words = (*small.small, "stage=train_classifier", "recipe=dp_gd", "recipe.name=mine", "recipe.epochs=2")
    assert small.run(*words, "recipe.optimizer=adagrad", "recipe.lr=0.1", "seed=78") == cli.DONE
    assert small.run(*words, "recipe.optimizer=adagrat", "seed=78") == cli.REFUSED


def test_a_backbone(small):
    """Any model of timm, by a preset or by its name."""
    words = (*small.small, "stage=extract_features", "classifier=mobilenetv2", "classifier.weights=none")
    assert small.run(*words, "classifier.backbone=resnet10t", "classifier.input_size=32") == cli.DONE


def test_a_dataset(tmp_path, monkeypatch):
    """A reader, and a preset or the same words on the command line."""

    def read(request) -> Iterator[Lesion]:
        for path in sorted(request.folder.glob("*.png")):
            patient, label = path.stem.split("_")
            yield Lesion(path.name, path, WholeImage(), patient, path.stem, label == "m", split="train")

    monkeypatch.setitem(READERS, "mine", read)
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (128, 128), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}_{'bm'[number % 2]}.png"), image)
    place = Workplace(tmp_path)
    words = (
        "dataset=custom", "dataset.name=mine", f"dataset.root={tmp_path}", "dataset.val_fraction=0.3",
        "~dataset.sources.custom", "+dataset.sources.mine={reader:mine,root:.,role:development}",
        f"outputs={place.outputs}", "stage=extract_patches",
    )  # fmt: skip
    assert place.run(*words) == cli.DONE
    (folder,) = place.folders("extract_patches")
    assert len((folder / "index.csv").read_text().splitlines()) == 1 + 6
