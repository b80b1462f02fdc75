import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mammo_dp import __version__, cli
from mammo_dp.stages import STAGES
from tests.conftest import shared


def refused(place, *words: str) -> str:
    """Run, expect a refusal in one sentence with no artifact folder, and return the sentence."""
    assert place.run(*words) == cli.REFUSED
    out, err = place.said()
    assert "Traceback" not in out + err
    assert err.startswith("mammo_dp: ")
    assert len(err.strip().splitlines()) == 1, err
    made = (
        [p for p in place.outputs.glob("*") if not p.name.startswith(".")] if place.outputs.exists() else []
    )
    assert made == []
    return err


TRAIN = ("stage=train_classifier", "build_inputs=true")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("stage=extract_patchs",), "Did you mean extract_patches"),
        ((*TRAIN, "privacy.epsillon=3"), "Did you mean privacy.epsilon"),
        ((*TRAIN, "+privacy.epsillon=3"), "Did you mean privacy.epsilon"),
        ((*TRAIN, "privacy.epsilon=0"), "greater than 0"),
        ((*TRAIN, "privacy.epsilon=-1"), "greater than 0"),
        ((*TRAIN, "privacy.epsilon=six"), "valid number"),
        ((*TRAIN, "privacy.epsilon=nan"), "greater than 0"),
        ((*TRAIN, "privacy.delta=0"), "greater than 0"),
        ((*TRAIN, "privacy.delta=1"), "less than 1"),
        ((*TRAIN, "seed=1.5"), "integer"),
        ((*TRAIN, "seed=x"), "integer"),
        ((*TRAIN, "dataset=toi"), "choose one of"),
        ((*TRAIN, "dataset=cbis_bcdr"), "not part of the selected config groups"),
        ((*TRAIN, "classifier.weights=/nowhere.safetensors"), "is not a file"),
        ((*TRAIN, "classifier.backbone=swin_tinny"), "timm knows no model"),
        (("stage=train_classifier",), "stage=extract_patches"),
        (("stage=report",), "no finished train_classifier"),
        ((*TRAIN, "runtime.device=tpu"), "runtime.device"),
        ((*TRAIN, "privacy.epsilon"), "privacy.epsilon"),
        ((*TRAIN, "classifier.mean=nan"), "finite"),
        ((*TRAIN, "classifier.backbone_args.patch_size=0"), "do not fit"),
        ((*TRAIN, "+classifier.backbone_args.checkpoint_path=x"), "classifier.weights"),
        ((*TRAIN, "classifier.input_size=100"), "input_size=100"),
        ((*TRAIN, "dataset.val_fraction=0"), "dataset.val_fraction"),
        ((*TRAIN, "outputs=/etc/passwd"), "cannot be written"),
        ((*TRAIN, "hydra.job.chdir=true"), "leave it out"),
        ((*TRAIN, "--run"), "unknown flag --run"),
        (("-m", "stage=train_classifier,report"), "no part of a sweep"),
    ],
)
def test_refusals(place, words, expected):
    assert expected in refused(place, *place.small, *words)


def test_absent_root(place):
    words = (f"outputs={place.outputs}", *TRAIN)
    for dataset in ("release", "cbis_ddsm", "cbis_bcdr"):
        assert "set dataset.root=FOLDER" in refused(place, *words, f"dataset={dataset}")
        assert "dataset.root=" in refused(place, *words, f"dataset={dataset}", "dataset.root=/nowhere/at/all")


def test_empty_root(place):
    for folder in ("cbis-ddsm", "bcdr"):
        (place.root / "empty" / folder).mkdir(parents=True)
    words = (f"dataset.root={place.root}/empty", f"outputs={place.outputs}", "stage=extract_patches")
    assert "dataset.root" in refused(place, *words, "dataset=release")
    assert "holds no files" in refused(place, *words, "dataset=cbis_bcdr")


def test_weights_that_do_not_fit(place):
    from mammo_dp.config.compose import config_dir

    package = config_dir().parent / "src/mammo_dp/models/swin_micro.safetensors"
    state = load_file(package)
    first = next(iter(state))
    files = {
        "lacks": {k: v for k, v in state.items() if k != first},
        "unknown": state | {"strange.weight": torch.zeros(2)},
        "shape": state | {first: torch.zeros(3, 3)},
    }
    for fault, content in files.items():
        path = place.root / f"{fault}.safetensors"
        save_file(content, path)
        sentence = refused(place, *place.small, *TRAIN, f"classifier.weights={path}")
        assert fault in sentence
        assert ("strange.weight" if fault == "unknown" else first) in sentence
    (place.root / "text.pth").write_text("no tensors")
    assert "holds more than tensors, or is damaged" in refused(
        place, *place.small, *TRAIN, f"classifier.weights={place.root}/text.pth"
    )


def test_one_bad_job_among_five_good_ones(place):
    assert "integer" in refused(place, "-m", *place.small, *TRAIN, "seed=0,1,2,3,4,1.5")


def test_missing_input_names_the_command(place):
    sentence = refused(place, *place.small, "stage=train_classifier", "seed=3")
    assert "python -m mammo_dp stage=extract_patches dataset=toy" in sentence
    assert "seed=3" not in sentence  # patches do not depend on it


def test_dry_run_builds_nothing(place):
    assert place.run(*place.small, *TRAIN, "dry_run=true") == cli.DONE
    out, _ = place.said()
    assert [line.split("/")[0] for line in out.splitlines() if line.startswith("would build")] == [
        "would build extract_patches",
        "would build extract_features",
        "would build train_classifier",
    ]
    assert not [p for p in place.outputs.glob("*") if not p.name.startswith(".")]


def test_help_and_version(place):
    assert place.run("--help") == cli.DONE
    out, _ = place.said()
    for name in ("status", *STAGES):
        assert f"\n  {name} " in out
    assert place.run("--version") == cli.DONE
    assert place.said()[0].strip() == f"mammo-dp {__version__}"


def test_status_names_every_stage_without_torch():
    code = (
        "import sys; from mammo_dp.cli import main; main([]); main(['--help']); "
        "assert not {'torch', 'timm', 'opacus', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert all(name in ran.stdout for name in STAGES)


def test_sweep_failure_skip_and_report(place):
    """Three runs, one of which fails: the others go on, the failure is listed, a repeat does only what is missing."""
    sweep = ("-m", *place.small, *TRAIN, "recipe=dp_gd", "recipe.epochs=3", "seed=0,1")
    assert place.run(*sweep) == cli.DONE
    assert len(place.folders("train_classifier")) == 2
    place.said()
    assert place.run(*sweep) == cli.DONE
    assert "nothing to do" in place.said()[0]
    assert not list(place.outputs.glob(".sweeps/*"))

    from mammo_dp.training.head_trainer import HeadTrainer

    original = HeadTrainer.step
    try:

        def step(self):
            if self.recipe.epochs == 2:
                raise FloatingPointError("planted")
            original(self)

        HeadTrainer.step = step
        words = ("-m", *place.small, *TRAIN, "recipe=dp_gd", "recipe.epochs=2,4", "seed=0")
        assert place.run(*words) == cli.FAILED
    finally:
        HeadTrainer.step = original
    assert len(place.folders("train_classifier")) == 4
    (error,) = place.outputs.glob("train_classifier/*/error.txt")
    text = error.read_text()
    assert "planted" in text
    assert "recipe.epochs=2" in text
    assert str(place.root / "toy") not in text
    place.said()
    assert place.run(f"outputs={place.outputs}") == cli.DONE
    assert "FAILED" in place.said()[0]

    assert place.run("stage=report", f"outputs={place.outputs}") == cli.DONE
    (report,) = place.folders("report")
    page = (report / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert json.loads((report / "metrics.json").read_text())["runs"] == 3


def test_force_runs_again(place):
    words = (*place.small, *TRAIN, "recipe=dp_gd", "recipe.epochs=2")
    assert place.run(*words) == cli.DONE
    (folder,) = place.folders("train_classifier")
    before = (folder / "head.safetensors").read_bytes()
    place.said()
    assert place.run(*words, "force=true") == cli.DONE
    out, _ = place.said()
    assert "running" in out
    assert (folder / "head.safetensors").read_bytes() == before


def test_real_release_in_miniature(place):
    """Reader, split and labels of the published patches, against counts stated in the paper's repository."""
    root = shared() / "data/release"
    words = ("stage=extract_patches", "dataset=release", f"dataset.root={root}", f"outputs={place.outputs}")
    assert place.run(*words) == cli.DONE
    (folder,) = place.folders("extract_patches")
    counts = json.loads((folder / "metrics.json").read_text())["counts"]["cbis_ddsm"]
    assert counts == {
        "train": {"patches": 1104, "malignant": 525, "patients": 578},
        "val": {"patches": 192, "malignant": 102, "patients": 102},
        "test": {"patches": 402, "malignant": 157, "patients": 212},
    }
    assert str(root) not in (folder / "config.yaml").read_text()
