"""The ledger as the command line writes it: manifests, status, report, refusals, export."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from mammo_dp import cli, graph
from mammo_dp.pipeline import Node
from tests.conftest import config_of

QUICK = ("stage=train_classifier", "recipe=dp_gd", "recipe.epochs=4")


def manifest(words) -> dict:
    artifact = Node.of(config_of(*words)).artifact()
    assert artifact is not None
    return artifact.manifest


def accounts(found: dict) -> dict:
    return {(a["cohort"], a["unit"]): a["epsilon"] for a in found["privacy"]["ledger"]["accounts"]}


@pytest.fixture
def synthetic(small):
    """A folder of synthetic masses in the published form, and the words that name it."""
    folder = small.root / "synthetic"
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(0)
        for label in ("benign", "malignant"):
            for number in range(12):
                image = rng.integers(0, 255, (128, 128), dtype=np.uint8)
                cv2.imwrite(str(folder / f"batch_0_{number}_{label}.png"), image)
    return ("synthetic=release", f"synthetic.root={folder}", "synthetic.per_class=12")


def test_every_stage_says_what_it_does_to_private_data():
    """A stage cannot be added without: the field has no default."""
    fields = {field.name: field for field in dataclasses.fields(graph.Stage)}
    assert fields["events"].default is dataclasses.MISSING
    assert fields["events"].default_factory is dataclasses.MISSING
    for name, stage in graph.STAGES.items():
        assert callable(stage.events), name


def test_patient_level_run(small):
    words = (*small.small, *QUICK, "privacy.unit=patient", "privacy.epsilon=2")
    assert small.run(*words) == cli.DONE
    found = manifest(words)
    record, ledger = found["privacy"], found["privacy"]["ledger"]
    assert (record["unit"], record["public_count"]) == ("patient", 14)
    assert accounts(found)["training", "patient"] == pytest.approx(2, abs=1e-5)
    assert ledger["headline"]["epsilon"] <= 2
    assert set(record["accountants"]) == {"gaussian", "rdp", "pld", "rdp_looseness"}
    assert {line.split(":")[1].strip() for line in ledger["not_protected"]} == {"metrics and predictions"}
    assert "For each patient of the training set" in ledger["statement"]
    assert "whoever knows the seed" in ledger["statement"]
    assert "patient-seed" in Node.of(config_of(*words)).folder.name


def test_image_level_run_is_read_again_per_patient(small):
    words = (*small.small, *QUICK, "privacy.epsilon=1")
    assert small.run(*words) == cli.DONE
    found = manifest(words)
    per_patient = found["privacy"]["per_patient"]
    assert per_patient["most"]["images"] == 3  # two views and a second mass
    assert per_patient["most"]["epsilon"] > 3 * 0.999
    assert per_patient["median"]["images"] == 2
    assert accounts(found)["training", "patient"] == pytest.approx(per_patient["most"]["epsilon"])


def test_an_epoch_chosen_on_validation_patients(small):
    """Training patients keep their epsilon, validation patients have none, and the headline says so."""
    words = (*small.small, "stage=train_classifier", "recipe.epochs=4", "recipe.batch_size=8", "privacy.epsilon=3",
             "privacy.accountant=rdp")  # fmt: skip
    assert small.run(*words) == cli.DONE
    found = manifest(words)
    assert 0 < accounts(found)["training", "image"] <= 3
    assert accounts(found)["validation", "image"] == "inf"
    assert found["privacy"]["ledger"]["headline"]["epsilon"] == "inf"
    assert found["privacy"]["ledger"]["headline"]["cohort"] == "validation"
    assert found["privacy"]["accountants"]["rdp_looseness"] > 0
    assert any("log.jsonl" in line for line in found["privacy"]["ledger"]["must_not_be_released"])
    assert (
        "no privacy guarantee (epsilon = infinity) for the validation patients"
        in found["privacy"]["ledger"]["statement"]
    )


def test_synthetic_images_of_a_generator_without_privacy(small, synthetic, monkeypatch):
    """End-to-end infinity beside the mechanism's own epsilon: in JSON, statement, status and report."""
    monkeypatch.setattr(graph, "_saw_these_patients", lambda config: not config.synthetic.disjoint)
    common = (
        *small.small,
        *synthetic,
        *QUICK,
        "build_inputs=true",
        "privacy.epsilon=2",
        "experiment=real_syn",
    )
    for role in ("pooled", "public"):
        words = (*common, f"synthetic.role={role}")
        assert small.run(*words) == cli.DONE
        found = manifest(words)
        ledger = found["privacy"]["ledger"]
        assert ledger["headline"]["epsilon"] == "inf"
        assert found["privacy"]["epsilon_spent"] <= 2
        assert found["privacy"]["public_count"] == (31 + 24 if role == "pooled" else 31)
        assert "By itself, the training of the classifier is (2, 0.01)" in ledger["statement"]
        assert ("the synthetic images are public" in ledger["statement"]) == (role == "public")
    assert small.run("stage=report", f"outputs={small.outputs}") == cli.DONE
    report = sorted(small.outputs.glob("report/*/table1.csv"), key=lambda p: p.stat().st_mtime)[-1]
    rows = [line for line in report.read_text().splitlines() if "real_syn" in line]
    assert rows
    assert all(",inf," in line for line in rows)
    page = (report.parent / "report.html").read_text()
    assert "By itself, the training of the classifier" in page

    disjoint = (*common, "synthetic.disjoint=true")
    assert small.run(*disjoint) == cli.DONE
    ledger = manifest(disjoint)["privacy"]["ledger"]
    assert ledger["headline"]["epsilon"] == pytest.approx(2, abs=1e-5)
    assert "the generator saw none of these patients" in ledger["statement"]


def test_synthetic_images_alone(small, synthetic):
    """experiment=syn touches no real patient but by what the generator saw; its epoch is chosen on held-out ones."""
    words = (*small.small, *synthetic, "stage=train_classifier", "experiment=syn", "privacy.epsilon=inf",
             "build_inputs=true", "recipe.epochs=3", "synthetic.val_fraction=0.4")  # fmt: skip
    assert small.run(*words) == cli.DONE
    found = manifest(words)
    assert found["privacy"]["ledger"]["headline"] is None  # phantoms: no generator saw them
    assert "validation" not in {
        e["cohort"] for e in found["privacy"]["ledger"]["events"] if e["effect"] != "published"
    }
    folder = Node.of(config_of(*words)).folder
    assert len((folder / "log.jsonl").read_text().splitlines()) == 3


def test_require_refuses_before_training_and_names_the_event(place):
    words = (*place.small, "build_inputs=true", "stage=train_classifier", "privacy.require=3")
    assert place.run(*words, "recipe=dp_gd", "privacy.epsilon=6") == cli.REFUSED
    assert "training of the classifier" in place.said()[1]
    assert place.run(*words, "privacy.epsilon=2", "privacy.accountant=rdp", "recipe.epochs=2") == cli.REFUSED
    assert "choice of the epoch (validation patients" in place.said()[1]
    assert (
        place.run("-m", *words, "recipe=dp_gd", "privacy.epsilon=2,6") == cli.REFUSED
    )  # one bad job stops all
    assert not [p for p in place.outputs.glob("*") if not p.name.startswith(".")]
    assert place.run(*words, "recipe=dp_gd", "recipe.epochs=2", "privacy.epsilon=3") == cli.DONE


def test_patients_without_ids_are_refused(small):
    from mammo_dp.data.patch_set import PatchSet
    from mammo_dp.errors import UserError
    from mammo_dp.stages.train_classifier import training_units

    config = config_of(*small.small, *QUICK, "privacy.unit=patient")
    patches = PatchSet.load(Node.of(config, "extract_patches").artifact())
    assert (
        len(training_units(patches, config)[0])
        == patches.index[patches.index["split"] == "train"]["patient"].nunique()
    )
    patches.index.loc[0, "patient"] = ""
    patches.index.loc[0, "split"] = "train"
    with pytest.raises(UserError, match="no patient id"):
        training_units(patches, config)


def test_accountants_that_disagree_stop_the_run_before_training(small, monkeypatch):
    from mammo_dp.privacy import loss_distribution

    monkeypatch.setattr(loss_distribution, "epsilon", lambda mechanism, **kwargs: 1.0)
    words = (*small.small, *QUICK, "privacy.epsilon=2.5")
    assert small.run(*words) == cli.FAILED
    folder = Node.of(config_of(*words)).folder
    assert "must not be published" in (folder / "error.txt").read_text()
    assert not (folder / "head.safetensors").exists()


def test_export(small, capsys):
    base = (*small.small, "recipe=dp_gd", "recipe.epochs=4", "privacy.unit=patient", "privacy.epsilon=2",
            "stage=export", "build_inputs=true")  # fmt: skip
    assert small.run(*base) == cli.REFUSED
    assert "export.accept=[seeded_noise]" in capsys.readouterr().err
    inf = (
        *small.small,
        "recipe=dp_gd",
        "recipe.epochs=4",
        "stage=export",
        "build_inputs=true",
        "privacy.epsilon=inf",
    )
    assert small.run(*inf) == cli.REFUSED
    assert "protect nobody" in capsys.readouterr().err

    secure = (*base, "privacy.randomness=secure")
    assert small.run(*secure) == cli.DONE
    node = Node.of(config_of(*secure))
    bundle = node.folder / "bundle"
    assert sorted(p.name for p in bundle.iterdir()) == [
        "README.md", "STATEMENT.md", "config.yaml", "model.safetensors", "privacy.json",
    ]  # fmt: skip
    text = "".join(p.read_text() for p in bundle.iterdir() if p.suffix != ".safetensors")
    for secret in (str(small.root), node.fp8, node.inputs["classifier"].fp8, "\nseed", "auroc", "log.jsonl"):
        assert secret not in text, secret
    privacy = json.loads((bundle / "privacy.json").read_text())
    assert privacy["ledger"]["headline"]["epsilon"] <= 2
    assert privacy["epsilon_spent"] <= 2

    assert small.run(*secure, "seed=1") == cli.DONE
    together = Node.of(config_of(*secure, "seed=1")).artifact().manifest["privacy"]["released_together"]
    assert together["bundles"] == 2
    assert 2 < together["epsilon"] < 4


def test_secure_noise_leaves_no_random_state_and_is_fresh(small):
    words = (*small.small, *QUICK, "privacy.epsilon=2", "privacy.randomness=secure")
    assert small.run(*words) == cli.DONE
    folder = Node.of(config_of(*words)).folder
    before = (folder / "head.safetensors").read_bytes()
    assert small.run(*words, "force=true") == cli.DONE
    assert (folder / "head.safetensors").read_bytes() != before
    assert "whoever knows the seed" not in manifest(words)["privacy"]["ledger"]["statement"]
