"""The three stages of the GAN through the command line, on small phantoms: forms, kills, faults, privacy."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mammo_dp import cli, files
from mammo_dp.data.patch_set import INDEX_COLUMNS, PatchSet
from mammo_dp.engine.artifacts import Artifact, Store
from mammo_dp.stages.train_gan import work as train_gan
from tests.models.test_published_generator import Published

TINY = (
    "gan.size=16", "gan.generator_channels=[8,4]", "gan.discriminator_channels=[4,8]", "gan.batch_size=8",
    "gan.epochs=4", "gan.checkpoint_every=2", "synthetic.per_class=12", "evaluation=paper",
    "evaluation.bootstrap=50", "recipe=dp_gd",
)  # fmt: skip


def finished(place, stage: str) -> Artifact:
    (artifact,) = Store(place.outputs).finished(stage)
    return artifact


def newest(place, stage: str) -> Artifact:
    return max(
        Store(place.outputs).finished(stage), key=lambda a: (a.folder / "manifest.json").stat().st_mtime_ns
    )


def build(place, stage: str, *words: str) -> int:
    return place.run(*place.small, *TINY, "build_inputs=true", f"stage={stage}", *words)


@pytest.fixture(scope="module")
def evaluated(small):
    """All three stages, once a module, without a network."""
    assert build(small, "evaluate_synthetic", "evaluation.inception_weights=none.pth") == cli.DONE
    return small


# --- what the stages write ----------------------------------------------------------------------------------------


def test_the_generator_s_folder(evaluated):
    artifact = finished(evaluated, "train_gan")
    names = set(artifact.manifest["outputs"])
    assert {"checkpoints/epoch-00002.safetensors", "checkpoints/epoch-00004.safetensors", "samples/epoch-00002.png",
            "generator.safetensors", "losses.svg", "log.jsonl"} <= names  # fmt: skip
    assert not (artifact.folder / "last.pt").exists()
    assert not (artifact.folder / "previous.pt").exists()
    chosen, last = (
        load_file(artifact.path(n)) for n in ("generator.safetensors", "checkpoints/epoch-00004.safetensors")
    )
    assert all((chosen[k] == last[k]).all() for k in last)
    assert artifact.manifest["seeds"]["gan.seed"] == 42


def test_samples_are_patches_like_any_other(evaluated):
    artifact = finished(evaluated, "sample_synthetic")
    patches = PatchSet.load(artifact)
    assert tuple(patches.index.columns) == INDEX_COLUMNS
    assert set(patches.index["split"]) == set(patches.index["source"]) == {"synthetic"}
    assert patches.images.shape == (24, 128, 128)
    assert patches.malignant.tolist() == [0] * 12 + [1] * 12
    assert patches.index["patient"].is_unique
    assert artifact.read_json("metrics.json")["with_wrapped_pixels"] == 0


def test_the_evaluation_s_folder(evaluated):
    artifact = finished(evaluated, "evaluate_synthetic")
    metrics = artifact.read_json("metrics.json")
    table = pd.read_csv(artifact.path("distances.csv"))
    pairs = {"train:train", "synthetic:synthetic", "train:synthetic", "external:external", "train:external"}
    assert set(table["first"] + ":" + table["second"]) == pairs
    assert set(table["class"]) == {"all", "benign", "malignant"}
    assert {"backbone"} <= set(table["space"]) <= {"backbone", "radiomics"}
    assert table.loc[table["class"] == "all", "n_first"].min() > 0
    assert set(metrics["memorization"]) == {"pixels", "backbone"}
    assert 0 < metrics["memorization"]["pixels"]["low"] < metrics["memorization"]["pixels"]["high"] < 1
    assert metrics["memorization"]["pixels"]["members"] == metrics["images"]["train"]
    found = metrics["memorization"]["pixels"]["copies"]["nearer_than_95_percent"]
    assert found["low"] <= found["share"] <= found["high"]
    card = artifact.path("privacy_card.md").read_text()
    assert "differentially" in card or "no privacy guarantee" in card
    assert "| pixels |" in card
    assert "{{" not in card
    for name in ("figure2.png", "nearest_pixels.png", "nearest_backbone.png"):
        assert cv2.imread(str(artifact.path(name))).std() > 10
    assert set(pd.read_csv(artifact.path("nearest.csv"))["space"]) == {"pixels", "backbone"}


def test_spaces_that_cannot_be_used_are_told_and_the_others_measured(evaluated):
    left_out = finished(evaluated, "evaluate_synthetic").read_json("metrics.json")["left_out"]
    assert {"inception", "radimagenet"} <= set(left_out) <= {"inception", "radimagenet", "radiomics"}
    assert all(
        "is left out" in sentence and len(sentence.splitlines()) == 1 for sentence in left_out.values()
    )
    assert "evaluation.inception_weights=FILE" in left_out["inception"]


def test_any_checkpoint_and_any_seed(evaluated):
    first = PatchSet.load(finished_of(evaluated, "mcgan-12")).images
    images = []
    for word in ("synthetic.epoch=2", "synthetic.epoch=4", "synthetic.seed=7"):
        assert build(evaluated, "sample_synthetic", word) == cli.DONE
        images.append(PatchSet.load(newest(evaluated, "sample_synthetic")).images)
    assert not np.array_equal(images[0], first)
    assert np.array_equal(images[1], first)
    assert not np.array_equal(images[2], first)


def test_what_is_asked_for_beside_a_sample_does_not_change_it(evaluated):
    """More of them, and another batch size of the machine: the first ones stay as they are."""
    first = PatchSet.load(finished_of(evaluated, "mcgan-12")).images
    assert build(evaluated, "sample_synthetic", "synthetic.per_class=70") == cli.DONE
    more = PatchSet.load(newest(evaluated, "sample_synthetic")).images
    assert np.array_equal(more[:12], first[:12])
    assert np.array_equal(more[70:82], first[12:])
    assert (
        build(evaluated, "sample_synthetic", "synthetic.per_class=70", "runtime.batch_size=7", "force=true")
        == cli.DONE
    )
    assert np.array_equal(PatchSet.load(newest(evaluated, "sample_synthetic")).images, more)


def finished_of(place, label: str) -> Artifact:
    found = [a for a in Store(place.outputs).finished("sample_synthetic") if a.folder.name.startswith(label)]
    return min(found, key=lambda a: (a.folder / "manifest.json").stat().st_mtime_ns)


def test_a_checkpoint_chosen_by_distance(evaluated):
    assert (
        build(evaluated, "train_gan", "gan.select=fid", "gan.select_images=20", "gan.checkpoint_every=1")
        == cli.DONE
    )
    artifact = newest(evaluated, "train_gan")
    rows = [json.loads(line) for line in artifact.path("log.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["frechet_distance"])
    metrics = artifact.read_json("metrics.json")
    assert (metrics["epoch"], metrics["frechet_distance"]) == (best["epoch"], best["frechet_distance"])
    ledger = artifact.manifest["privacy"]["ledger"]
    assert "choice of the generator's checkpoint" in [event["what"] for event in ledger["events"]]


def test_the_authors_generator_makes_patches_like_any_other(evaluated, tmp_path):
    """From a file in its layout; the ledger says whose images it saw, and no record keeps the file's path."""
    torch.save(Published().state_dict(), tmp_path / "private name.pt")
    words = (
        "synthetic=authors_generator",
        f"synthetic.file='{tmp_path}/private name.pt'",
        "synthetic.per_class=5",
    )
    assert build(evaluated, "sample_synthetic", *words) == cli.DONE
    artifact = newest(evaluated, "sample_synthetic")
    patches = PatchSet.load(artifact)
    assert patches.malignant.tolist() == [0] * 5 + [1] * 5
    assert patches.index["patient"].str.startswith("authors_generator_").all()
    assert set(patches.index["source_sha256"]) == {files.sha256(tmp_path / "private name.pt")}
    record = (artifact.folder / "manifest.json").read_text()
    assert "private name" not in record
    assert "CBIS-DDSM" in record
    assert build(evaluated, "sample_synthetic", *words[:1], "synthetic.file=none.pt") != cli.DONE


def test_without_privacy_everything_after_the_generator_says_so(evaluated):
    for stage in ("train_gan", "sample_synthetic", "evaluate_synthetic"):
        for artifact in Store(evaluated.outputs).finished(stage):
            headline = artifact.manifest["privacy"]["ledger"]["headline"]
            assert headline["epsilon"] == "inf"
            assert "training of the generator" in headline["unlimited"]


# --- kills and faults ---------------------------------------------------------------------------------------------


def digests(artifact: Artifact) -> dict[str, str]:
    return {
        name: record["sha256"]
        for name, record in artifact.manifest["outputs"].items()
        if name not in ("config.yaml", "inputs.json")
    }


def test_killed_at_random_steps_it_ends_as_if_nothing_had_been(evaluated, tmp_path):
    """kill -9 at three random moments of a longer run, then a finish: every file equal, the log too."""
    words = [*evaluated.small, *TINY, "stage=train_gan", "gan.epochs=60", "runtime.checkpoint_seconds=0",
             "runtime.threads=1"]  # fmt: skip
    assert evaluated.run(*words) == cli.DONE
    whole = newest(evaluated, "train_gan")
    expected = digests(whole)
    command = [sys.executable, "-m", "mammo_dp", *words, "force=true"]
    rng = random.Random(0)
    kills = 0
    log = whole.folder / "log.jsonl"
    for attempt in range(3):
        process = subprocess.Popen(command if not attempt else command[:-1], stdout=subprocess.DEVNULL)
        epochs = rng.randrange(5, 12) + 15 * attempt
        while process.poll() is None and not (
            _lines(log) == epochs and not (whole.folder / "manifest.json").exists()
        ):
            time.sleep(0.002)
        if process.poll() is None:
            time.sleep(rng.random() * 0.03)
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 3
    assert not (whole.folder / "manifest.json").exists()
    assert evaluated.run(*words) == cli.DONE
    again = Store(evaluated.outputs).load(whole.folder)
    assert again is not None
    assert digests(again) == expected


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_a_full_disk_is_one_sentence_and_the_run_goes_on(evaluated, monkeypatch, capsys):
    words = (*evaluated.small, *TINY, "stage=train_gan", "gan.seed=5", "runtime.checkpoint_seconds=0")
    original, written = files.write_atomic, []

    def full(path, content):
        if path.name == "last.pt":
            written.append(path)
            if len(written) == 3:
                raise OSError(28, "No space left on device", str(path))
        original(path, content)

    monkeypatch.setattr("mammo_dp.training.checkpoint.write_atomic", full)
    monkeypatch.setattr("mammo_dp.training.checkpoint.SAVING_SHARE", 1e9)
    assert evaluated.run(*words) == cli.FAILED
    said = capsys.readouterr().err
    assert "the disk of outputs is full; make room and give the same command again" in said
    assert "Traceback" not in said
    folder = written[0].parent
    assert (folder / "last.pt").is_file() or (folder / "previous.pt").is_file()
    monkeypatch.setattr("mammo_dp.training.checkpoint.write_atomic", original)
    assert evaluated.run(*words) == cli.DONE


def test_a_half_written_file_is_not_left_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(tmp_path / "x", b"content")
    assert list(tmp_path.iterdir()) == []


def test_divergence_is_one_sentence_with_the_last_good_generator(evaluated, capsys):
    """A step so large that the losses overflow; also told by the status."""
    code = evaluated.run(*evaluated.small, *TINY, "stage=train_gan", "gan.lr=1e30", "gan.checkpoint_every=1")
    said = capsys.readouterr().err
    assert code == cli.FAILED
    assert "no longer finite" in said or "are alike" in said
    assert "gan.lr (now 1e+30)" in said
    assert "Traceback" not in said


def test_tensorboard_that_is_not_installed_is_refused_before_anything_runs(evaluated, monkeypatch, capsys):
    monkeypatch.setattr(train_gan.importlib.util, "find_spec", lambda name: None)
    words = (*evaluated.small, *TINY, "stage=train_gan", "gan.seed=99", "runtime.tensorboard=true")
    assert evaluated.run(*words) == cli.REFUSED
    assert "extra `tensorboard`" in capsys.readouterr().err


# --- the private generator ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["image", "patient"])
def test_a_private_generator_carries_its_epsilon_to_the_classifier(evaluated, unit):
    """Spent at most 10, as Google's accountant finds by itself from q, sigma and steps; the classifier says 10."""
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    words = ("gan.privacy.epsilon=10", f"privacy.unit={unit}", "experiment=syn", "privacy.epsilon=inf")
    assert build(evaluated, "train_classifier", *words) == cli.DONE
    generator = newest(evaluated, "train_gan")
    record = generator.manifest["privacy"]
    assert record["unit"] == unit
    assert record["public_count"] == {"image": 31, "patient": 14}[unit]  # 85 % of 36 and 16
    assert record["sample_rate"] == 1 / -(-record["public_count"] // 8)
    assert record["steps"] == 4 * round(1 / record["sample_rate"])
    accountant = PLDAccountant()
    step = dp_event.PoissonSampledDpEvent(
        record["sample_rate"], dp_event.GaussianDpEvent(record["noise_multiplier"])
    )
    accountant.compose(step, record["steps"])
    independent = accountant.get_epsilon(record["delta"])
    assert independent == pytest.approx(record["epsilon_spent"], abs=0.02)
    assert 9.9 < record["epsilon_spent"] <= 10
    headline = newest(evaluated, "train_classifier").manifest["privacy"]["ledger"]["headline"]
    assert headline["unlimited"] == []
    assert headline["unit"] == unit
    assert headline["epsilon"] == pytest.approx(record["epsilon_spent"])
    rows = [json.loads(line) for line in generator.path("log.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {"epoch", "step", "loss_generator", "loss_generated"}
    assert "real images" not in generator.path("losses.svg").read_text()


def test_what_a_bundle_of_a_private_generator_needs(evaluated, capsys):
    """The generator's noise counts as much as a classifier's; its budget and settings are in the bundle."""
    words = ("gan.privacy.epsilon=10", "experiment=syn", "privacy.epsilon=inf")
    assert build(evaluated, "export", *words) == cli.REFUSED
    assert "generator's noise comes from a seed" in capsys.readouterr().err
    assert build(evaluated, "export", *words, "export.accept=[seeded_noise]") == cli.DONE
    bundle = newest(evaluated, "export").folder / "bundle"
    privacy = json.loads((bundle / "privacy.json").read_text())
    assert "epsilon" not in privacy
    assert privacy["ledger"]["headline"]["epsilon"] == pytest.approx(10, abs=0.1)
    assert "gan:" in (bundle / "config.yaml").read_text()
    assert build(evaluated, "train_classifier", *words, "privacy.require=3") == cli.REFUSED
    assert "set gan.privacy.epsilon=3 or less" in capsys.readouterr().err


def test_a_private_classifier_on_private_samples_composes(evaluated):
    """Both mechanisms saw the same patients: more than either, less than their sum by the better composition."""
    words = ("gan.privacy.epsilon=10", "experiment=real_syn", "synthetic.role=public", "privacy.epsilon=5")
    assert build(evaluated, "train_classifier", *words) == cli.DONE
    ledger = newest(evaluated, "train_classifier").manifest["privacy"]["ledger"]
    assert 10 < ledger["headline"]["epsilon"] < 15
    assert not any("synthetic images are public" in line for line in ledger["assumptions"])


def test_distances_of_a_private_generator_must_not_be_released(evaluated):
    assert (
        build(evaluated, "evaluate_synthetic", "gan.privacy.epsilon=10", "evaluation.spaces=[backbone]")
        == cli.DONE
    )
    ledger = newest(evaluated, "evaluate_synthetic").manifest["privacy"]["ledger"]
    assert any("pictures of training images" in line for line in ledger["must_not_be_released"])
    assert ledger["headline"]["epsilon"] == pytest.approx(10, abs=0.1)
