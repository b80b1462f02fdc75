"""The page of the paper's numbers beside ours: what it takes from runs, and that no line is missing."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from mammo_dp.reporting.paper import DISTANCES, ROWS

SCRIPT = Path(__file__).parents[2] / "scripts/reproduction.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("reproduction", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classifier(seed: int, auroc: float, *, backbone: str = "mobilenetv2_100", weights: str = "imagenet",
               epsilon="6.0", unit="image", dataset="release", **changes):  # fmt: skip
    config = {"recipe": {"name": "paper"}, "experiment": {"name": "real"}, "dataset": {"name": dataset},
              "privacy": {"epsilon": epsilon, "unit": unit, "delta": 1e-4}} | changes  # fmt: skip
    test = {"cbis_ddsm": {"auroc": auroc, "auprc_benign": auroc + 0.1}}
    manifest = {
        "backbone": {"label": backbone, "weights": weights},
        "settings": {"seed": seed, "dataset": {"name": dataset}},
    }
    return SimpleNamespace(manifest=manifest, read_json=lambda name: {"test": test}), OmegaConf.create(config)


def evaluation(name: str, mean: float):
    distance = {"class": "all", "first": "train", "second": "synthetic", "metric": "frd", "space": "radiomics",
                "mean": mean, "std": 2.0}  # fmt: skip
    artifact = SimpleNamespace(
        read_json=lambda file: {"distances": [distance, {**distance, "class": "benign"}]}
    )
    return artifact, OmegaConf.create({"synthetic": {"name": name}})


def page(script, monkeypatch, classifiers=(), evaluations=()) -> list[list[str]]:
    given = {"train_classifier": classifiers, "evaluate_synthetic": evaluations}
    monkeypatch.setattr(script, "finished", lambda store, stage: iter(given[stage]))
    lines = [line for line in script.page(None).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_number_of_the_paper_has_a_line_and_a_reason(script, monkeypatch):
    lines = [line for line in page(script, monkeypatch) if line[0] not in ("setup", "pair", "---")]
    assert len(lines) == 4 * len(ROWS) + len(DISTANCES) == 84
    assert all(line[-1] for line in lines)
    assert not any(line[5] if len(line) == 8 else line[3] for line in lines)  # nothing was run


def test_means_over_seeds_of_the_right_runs(script, monkeypatch):
    """Not of patient-level runs, other recipes, other budgets; Swin-T where there is one."""
    runs = [
        classifier(42, 0.60), classifier(43, 0.66), classifier(44, 0.66), classifier(42, 0.99, unit="patient"),
        classifier(43, 0.90, dataset="cbis_ddsm"),
        classifier(44, 0.10, backbone="swin_tiny", weights="random, seed 0"),
        classifier(42, 0.98, recipe={"name": "dp_rule"}), classifier(42, 0.97, epsilon="1.0"),
        classifier(42, 0.70, experiment={"name": "syn"}, epsilon="inf"),
        classifier(42, 0.80, experiment={"name": "syn"}, epsilon="inf", backbone="swin_tiny_patch4_window7_224"),
    ]  # fmt: skip
    lines = {tuple(line[:4]): line for line in page(script, monkeypatch, runs)}
    real = lines["real", "6", "CBIS-DDSM", "AUROC"]
    assert real[4:6] == ["0.572 ± 0.031", "0.640 ± 0.028 (n = 3)"]
    assert "mobilenetv2_100" in real[6]
    assert "another backbone" in real[7]
    assert lines["real", "6", "CBIS-DDSM", "AUPRC (benign)"][5] == "0.740 ± 0.028 (n = 3)"
    assert lines["real", "1", "CBIS-DDSM", "AUROC"][5] == "0.970 ± 0.000 (n = 1)"
    assert "BCDR" in lines["real", "6", "BCDR", "AUROC"][7]
    syn = lines["syn", "∞", "CBIS-DDSM", "AUROC"]
    assert syn[5] == "0.800 ± 0.000 (n = 1)"
    assert syn[7] == ""


def test_distances_are_of_the_authors_images(script, monkeypatch):
    found = page(script, monkeypatch, evaluations=[evaluation("mcgan", 7.0), evaluation("release", 217.0)])
    lines = {tuple(line[:2]): line for line in found}
    assert lines["train : synthetic", "FRD, radiomics"][2:4] == ["18.12 ± 1", "217 ± 2"]
