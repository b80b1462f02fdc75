"""Fingerprints, locks and resume, with real processes where that is the point."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mammo_dp import cli
from mammo_dp.stages import node_of
from tests.conftest import config_of


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mammo_dp", *words]


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("seed=7", True), ("privacy.epsilon=2", True), ("privacy.delta=0.02", True), ("patches.margin=50", True),
        ("classifier.mean=0.4", True), ("recipe.max_grad_norm=2", True), ("runtime.precision=bfloat16", True),
        ("runtime.threads=1", False), ("runtime.checkpoint_seconds=1", False), ("build_inputs=true", False),
        ("runtime.device=cpu", False), ("dataset.max_skipped=0.5", False),
    ],
)  # fmt: skip
def test_what_the_fingerprint_sees(place, override, changes):
    words = [*place.small, "stage=train_classifier"]
    assert (node_of(config_of(*words)).fp8 != node_of(config_of(*words, override)).fp8) == changes


def test_privacy_settings_of_a_non_private_run_do_not_count(place):
    words = [*place.small, "stage=train_classifier", "privacy.epsilon=inf"]
    other = [*words, "privacy.accountant=rdp", "recipe.max_grad_norm=9", "privacy.delta=0.001"]
    assert node_of(config_of(*words)).fp8 == node_of(config_of(*other)).fp8


def test_two_processes_build_each_input_once(place):
    words = command(*place.small, "build_inputs=true", "stage=extract_features")
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for stage in ("extract_patches", "extract_features"):
        runs = [
            line
            for text in said
            for line in text.splitlines()
            if line.startswith(stage) and "running" in line
        ]
        assert len(runs) == 1, said


def test_kill_9_and_resume_is_bit_identical(small):
    """Killed in the middle, started again: the same bytes as a run that was never stopped."""
    base = [*small.small, "stage=train_classifier", "recipe.epochs=150", "recipe.batch_size=8", "privacy.epsilon=3",
            "privacy.accountant=rdp", "runtime.threads=1", "runtime.checkpoint_seconds=0.05"]  # fmt: skip
    whole = small.root / "whole"
    node = node_of(config_of(*base))
    process = subprocess.Popen(command(*base), stdout=subprocess.DEVNULL)
    last = node.folder / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert last.exists(), "the run ended before it could be killed"
    assert node.artifact() is None

    import torch

    before = torch.get_num_threads()
    try:
        assert 0 < torch.load(last, weights_only=True)["trainer"]["step"] < 150 * 4
        assert small.run(*base) == cli.DONE
        finished = node.artifact()
        node.folder.rename(whole)
        assert small.run(*base) == cli.DONE
    finally:
        torch.set_num_threads(before)
    for name in ("head.safetensors", "predictions.csv", "metrics.json", "log.jsonl"):
        assert (whole / name).read_bytes() == (node.folder / name).read_bytes(), name
    assert finished is not None
    assert not (whole / "last.pt").exists()


def test_manifest_of_a_run(small):
    words = [*small.small, "stage=train_classifier", "recipe=dp_gd", "recipe.epochs=4", "privacy.epsilon=2"]
    assert small.run(*words) == cli.DONE
    folder = node_of(config_of(*words)).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    record = manifest["privacy"]
    assert record["unit"] == "image"
    assert record["accountant"] == "gaussian"
    assert record["epsilon_spent"] == pytest.approx(2, abs=1e-6)
    assert record["epsilon_spent"] <= 2
    assert record["warnings"] == []
    assert {"inputs", "outputs", "timings", "packages", "git", "device", "seeds"} <= set(manifest)
    assert {"head.safetensors", "predictions.csv", "metrics.json", "config.yaml"} <= set(manifest["outputs"])
    assert set(json.loads((folder / "metrics.json").read_text())["test"]) == {"toy_cbis", "toy_bcdr"}
    assert not any(str(small.root / "toy") in p.read_text() for p in folder.glob("*.[jy]*"))

    assert small.run(*words, "privacy.delta=0.04") == cli.DONE
    warned = json.loads(
        (node_of(config_of(*words, "privacy.delta=0.04")).folder / "manifest.json").read_text()
    )
    assert "1/N" in warned["privacy"]["warnings"][0]


def test_inputs_that_changed_stop_the_run(small):
    words = [*small.small, "stage=train_classifier", "recipe=dp_gd", "recipe.epochs=5"]
    features = node_of(config_of(*words), "extract_features").folder / "features.safetensors"
    content = features.read_bytes()
    try:
        features.write_bytes(content[:-1] + b"\1")
        assert small.run(*words) == cli.FAILED
    finally:
        features.write_bytes(content)


def test_long_paths_with_blanks_are_masked_too(place):
    """YAML folds long lines; a path must not slip through in pieces."""
    folder = place.root / ("the folder of doctor smith " * 6).strip()
    words = [*place.small, "stage=extract_patches", f"dataset.root='{folder}'"]
    assert place.run(*words) == cli.DONE
    (made,) = place.folders("extract_patches")
    assert "smith" not in (made / "config.yaml").read_text()


def test_an_input_built_anew_with_other_content_makes_its_readers_stale(place):
    words = [*place.small, "build_inputs=true", "stage=train_classifier", "recipe=dp_gd", "recipe.epochs=2"]
    assert place.run(*words) == cli.DONE
    node = node_of(config_of(*words))
    features = node.inputs["features"]
    manifest = features.folder / "manifest.json"
    assert node.artifact() is not None
    same = features.artifact()
    assert place.run(*place.small, "stage=extract_features", "force=true") == cli.DONE
    assert same is not None
    assert features.artifact().content == same.content  # an equal build changes nothing
    assert node.artifact() is not None

    recorded = json.loads(manifest.read_text())
    recorded["outputs"]["features.safetensors"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(recorded))
    assert node.artifact() is None
