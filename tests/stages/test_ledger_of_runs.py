"""The ledger as the command line writes it: manifests, status, report, refusals, export."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from mammo_dp import cli
from mammo_dp.engine.stage import Stage
from mammo_dp.rounding import rounded_up
from mammo_dp.stages import STAGES, node_of
from tests.conftest import config_of

QUICK = ("stage=train_classifier", "recipe=dp_gd", "recipe.epochs=4")


def manifest(words) -> dict:
    artifact = node_of(config_of(*words)).artifact()
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
    """A stage cannot be added without: `events` is abstract."""
    assert Stage.events.__isabstractmethod__  # type: ignore[attr-defined]
    assert all(type(stage).events is not Stage.events for stage in STAGES.values())


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
    assert any("risk.csv" in line for line in ledger["must_not_be_released"])
    assert f"It is {rounded_up(record['mu'])}-GDP" in ledger["statement"]
    assert "is a replacement, which moves the sum up to twice as far" in ledger["statement"]
    assert "with that patient's data null, plus 0.01" in ledger["statement"]
    assert record["noise"] == "seeded"
    assert record["sensitivity_in_grid_steps"] * record["grid_step"] == pytest.approx(1.67)
    assert "For each patient of the training set" in ledger["statement"]
    assert ledger["statement"].startswith("Not a release: noise comes from a seed")
    assert "patient-seed" in node_of(config_of(*words)).folder.name


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


def test_synthetic_images_of_a_generator_without_privacy(small, synthetic):
    """End-to-end infinity beside the mechanism's own epsilon: in JSON, statement, status and report."""
    common = (
        *small.small,
        *synthetic,
        *QUICK,
        "build_inputs=true",
        "privacy.epsilon=2",
        "experiment=real_syn",
    )
    for role in ("pooled", "public"):
        words = (*common, f"synthetic.role={role}", "dataset.population=CBIS-DDSM", "seed=9")
        assert small.run(*words) == cli.DONE
        found = manifest(words)
        ledger = found["privacy"]["ledger"]
        assert ledger["headline"]["epsilon"] == "inf"
        assert found["privacy"]["epsilon_spent"] <= 2
        assert found["privacy"]["public_count"] == (31 + 24 if role == "pooled" else 31)
        assert "By itself, the training of the classifier is (2, 0.01)" in ledger["statement"]
        assert ("the synthetic images are public" in ledger["statement"]) == (role == "public")
        assert accounts(found)["training", "image"] == "inf"
    assert small.run("stage=report", f"outputs={small.outputs}") == cli.DONE
    report = sorted(small.outputs.glob("report/*/table1.csv"), key=lambda p: p.stat().st_mtime)[-1]
    rows = [line for line in report.read_text().splitlines() if "real_syn" in line]
    assert rows
    assert all(",inf," in line for line in rows)
    page = (report.parent / "report.html").read_text()
    assert "By itself, the training of the classifier" in page


def test_patients_of_another_generator_are_not_forgotten(small, synthetic):
    """The hospital's own patients keep their epsilon; those whom the generator saw have none: it is their headline."""
    words = (
        *small.small,
        *synthetic,
        *QUICK,
        "build_inputs=true",
        "privacy.epsilon=2",
        "experiment=real_syn",
    )
    assert small.run(*words) == cli.DONE
    ledger = manifest(words)["privacy"]["ledger"]
    by_study = {a["study"]: a["epsilon"] for a in ledger["accounts"] if a["unit"] == "image"}
    assert by_study == {"toy phantoms": pytest.approx(2, abs=1e-5), "CBIS-DDSM": "inf"}
    assert ledger["headline"]["study"] == "CBIS-DDSM"


def test_synthetic_images_alone(small, synthetic):
    """experiment=syn touches no patient but those whom the generator saw; its epoch is chosen on held-out images."""
    words = (*small.small, *synthetic, "stage=train_classifier", "experiment=syn", "privacy.epsilon=inf",
             "build_inputs=true", "recipe.epochs=3", "synthetic.val_fraction=0.4")  # fmt: skip
    assert small.run(*words) == cli.DONE
    ledger = manifest(words)["privacy"]["ledger"]
    shaping = {(e["study"], e["what"]) for e in ledger["events"] if e["effect"] == "shapes_model"}
    assert shaping == {("CBIS-DDSM", "training of the generator")}
    assert ledger["headline"]["epsilon"] == "inf"
    folder = node_of(config_of(*words)).folder
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
    from mammo_dp.training.units import training_units

    config = config_of(*small.small, *QUICK, "privacy.unit=patient")
    patches = PatchSet.load(node_of(config, "extract_patches").artifact())
    assert (
        len(training_units(patches, config)[0])
        == patches.index[patches.index["split"] == "train"]["patient"].nunique()
    )
    patches.index.loc[0, "patient"] = ""
    patches.index.loc[0, "split"] = "train"
    with pytest.raises(UserError, match="no patient id"):
        training_units(patches, config)


def test_accountants_that_disagree_stop_the_run_before_training(small, monkeypatch, capsys):
    from mammo_dp.privacy import loss_distribution

    monkeypatch.setattr(loss_distribution, "epsilon", lambda mechanism, **kwargs: 1.0)
    words = (*small.small, *QUICK, "privacy.epsilon=2.5")
    assert small.run(*words) == cli.REFUSED
    assert "must not be published" in capsys.readouterr().err
    assert not node_of(config_of(*words)).folder.exists()


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
    assert "no end-to-end guarantee" in capsys.readouterr().err

    secure = (*base, "privacy.randomness=secure")
    assert small.run(*secure) == cli.DONE
    node = node_of(config_of(*secure))
    bundle = node.folder / "bundle"
    assert sorted(p.name for p in bundle.iterdir()) == [
        "README.md", "STATEMENT.md", "config.yaml", "head.safetensors", "privacy.json",
    ]  # fmt: skip
    text = "".join(p.read_text() for p in bundle.iterdir() if p.suffix != ".safetensors")
    for secret in (str(small.root), node.fp8, node.inputs["classifier"].fp8, "\nseed", "auroc", "log.jsonl"):
        assert secret not in text, secret
    privacy = json.loads((bundle / "privacy.json").read_text())
    assert privacy["ledger"]["headline"]["epsilon"] <= 2
    assert privacy["epsilon_spent"] <= 2


def test_releases_of_the_same_patients_add_up(small, capsys):
    """Another seed, and fresh noise under the same words: each is a release, whatever became of the earlier bundle."""
    words = (*small.small, "recipe=dp_gd", "recipe.epochs=3", "privacy.unit=patient", "privacy.epsilon=2",
             "privacy.randomness=secure", "build_inputs=true")  # fmt: skip

    def all_bundles() -> float:
        capsys.readouterr()
        assert small.run(*words, "stage=export", "seed=7") == cli.DONE
        said = capsys.readouterr().out
        return float(re.search(r"together at most epsilon ([\d.]+) per patient", said)[1])

    (small.outputs / ".releases.jsonl").unlink(missing_ok=True)
    first = all_bundles()
    assert first == pytest.approx(2, abs=0.01)
    assert all_bundles() == first  # nothing new, and said again of the folder as it is
    assert small.run(*words, "stage=train_classifier", "seed=7", "force=true") == cli.DONE
    second = all_bundles()
    assert 2.5 < second < 4
    capsys.readouterr()
    assert small.run(*words, "stage=export", "seed=8", "privacy.require=3") == cli.REFUSED
    assert "together with the bundles" in capsys.readouterr().err
    # the same patients under another name of the data set
    assert small.run(*words, "stage=export", "dataset.name=renamed", "privacy.require=3") == cli.REFUSED
    assert small.run(*words, "stage=export", "privacy.delta=0.5") == cli.REFUSED
    assert "large_delta" in capsys.readouterr().err


EXPORT = ("recipe=dp_gd", "recipe.epochs=3", "privacy.unit=patient", "privacy.epsilon=6", "privacy.randomness=secure",
          "build_inputs=true", "stage=export", "privacy.require=6")  # fmt: skip


def bundles(place, seeds) -> list[int]:
    words = [*place.small, *(word for word in EXPORT if not word.startswith("privacy.require"))]
    nodes = {seed: node_of(config_of(*words, f"seed={seed}")) for seed in seeds}
    return [seed for seed, node in nodes.items() if node.artifact() is not None]


def test_a_sweep_of_exports_builds_what_the_budget_allows_and_no_more(small, capsys):
    (small.outputs / ".releases.jsonl").unlink(missing_ok=True)
    assert small.run("-m", *small.small, *EXPORT, "seed=42,43,44") == cli.FAILED
    assert capsys.readouterr().err.count("privacy.require=6 refuses this bundle") == 2
    (built,) = bundles(small, (42, 43, 44))
    lines = (small.outputs / ".releases.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert (
        small.run(*small.small, *EXPORT, f"seed={built}") == cli.DONE
    )  # it is finished: the total of the folder
    assert "reveal together at most epsilon 6 per patient" in capsys.readouterr().out
    assert (small.outputs / ".releases.jsonl").read_text().splitlines() == lines


def test_two_exports_at_once_share_one_budget(small):
    """Two terminals: whoever takes the lock second sees the first in the register."""
    words = (*small.small, *(word for word in EXPORT if word != "stage=export"))
    for seed in (52, 53):
        assert small.run(*words, "stage=train_classifier", f"seed={seed}") == cli.DONE
    (small.outputs / ".releases.jsonl").unlink(missing_ok=True)
    command = [sys.executable, "-m", "mammo_dp", *small.small, *EXPORT]
    running = [
        subprocess.Popen([*command, f"seed={seed}"], stderr=subprocess.PIPE, text=True) for seed in (52, 53)
    ]
    errors = [process.communicate()[1] for process in running]
    assert len(bundles(small, (52, 53))) == 1, errors
    assert sum("refuses this bundle" in error for error in errors) == 1
    assert len((small.outputs / ".releases.jsonl").read_text().splitlines()) == 1


def test_no_sentence_about_the_folder_is_stored(small):
    words = (*small.small, *(word for word in EXPORT if not word.startswith("privacy.require")), "seed=61")
    assert small.run(*words) == cli.DONE
    folder = node_of(config_of(*words)).folder
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert "All bundles built" not in path.read_text(), path


def test_equal_fingerprints_mean_equal_bytes(small, synthetic):
    """What the fingerprint does not see must not reach the random streams."""
    words = (*small.small, *QUICK, "privacy.epsilon=2", "seed=11")
    assert small.run(*words) == cli.DONE
    folder = node_of(config_of(*words)).folder
    before = (folder / "head.safetensors").read_bytes()
    others = (*words, *synthetic, "privacy.require=5", "privacy.accountant=rdp")
    assert node_of(config_of(*others)).folder == folder
    assert small.run(*others, "force=true") == cli.DONE
    assert (folder / "head.safetensors").read_bytes() == before


def test_secure_noise_leaves_no_random_state_and_is_fresh(small):
    words = (*small.small, *QUICK, "privacy.epsilon=2", "privacy.randomness=secure")
    assert small.run(*words) == cli.DONE
    folder = node_of(config_of(*words)).folder
    before = (folder / "head.safetensors").read_bytes()
    assert small.run(*words, "force=true") == cli.DONE
    assert (folder / "head.safetensors").read_bytes() != before
    found = manifest(words)["privacy"]
    assert "Not a release" not in found["ledger"]["statement"]
    assert "the operating system's cryptographic generator, noise by opendp" in found["ledger"]["statement"]
    assert found["noise"] == "opendp"
