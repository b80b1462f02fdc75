"""Public images from a folder or data set to a private head: what is refused, what is said, what leaves."""

import hashlib
import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mammo_dp import cli
from mammo_dp.audit import work as attack
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.errors import UserError
from mammo_dp.files import walk_files
from mammo_dp.models.preparation import PREPARATION, Directions, Preparation
from mammo_dp.stages import node_of
from mammo_dp.training import build
from mammo_dp.training.features import FEATURES
from tests.conftest import config_of

RECIPE = ("recipe=dp_public", "recipe.components=8", "recipe.epochs=20")


def with_phantoms(small) -> tuple[str, ...]:
    sizes = {"train_patients": 12, "test_patients": 2, "external_patients": 2}
    toy = [f"public.dataset.toy.{key}={value}" for key, value in sizes.items()]
    return (*small.small, "public=toy", *RECIPE, f"public.dataset.root={small.root}/public", *toy)


def trained(small, *words: str):
    every = (*with_phantoms(small), "stage=train_classifier", "build_inputs=true", *words)
    assert small.run(*every) == cli.DONE
    return node_of(config_of(*every)).artifact()


def test_the_recommended_recipe_follows_from_what_is_named():
    assert config_of("dataset=toy").recipe.name == "dp_rule"
    assert config_of("dataset=toy", "public=toy").recipe.name == "dp_public"
    assert config_of("dataset=toy", "public=toy", "recipe=paper").recipe.name == "paper"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recipe=dp_public", "stage=train_classifier"), r"set public=patches public\.root=FOLDER"),
        (("stage=fit_preparation",), r"stage=fit_preparation needs public images"),
        (("public=patches",), r"set public\.root=FOLDER"),
        (("public=patches", "public.root=x"), r"set public\.population to a word"),
        (("public=toy", "public.population=Toy  Phantoms"), "no patient of the study may be among them"),
        (("public=mammograms", "public.root=x", "public.crop_side=[0,0.4]"), "greater than 0"),
        (("public=mammograms", "public.root=x", "public.crop_side=[0.4,0.2]"), "the smaller first"),
        (("public=toy", "public.population=toy phantoms"), "no patient of the study may be among them"),
        (("public=toy", "public.dataset.population=toy phantoms"), "no patient of the study may be among them"),
        (("public=toy", "classifier.trainable=all", "recipe.lr=1"), r"recipe\.flips=mean is for features of a frozen"),
        (("recipe.components=4",), r"recipe\.components needs"),
        (("recipe.flips=mean",), r"set .*recipe\.test_flips=false"),
        (("recipe=paper", "recipe.feature_norm=2"), r"recipe\.normalize_features=true"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        config_of("dataset=toy", *words)


@pytest.mark.parametrize("unit", ["image", "patient"])
def test_a_plain_private_run_ends_in_the_epsilon_that_it_claims(small, unit):
    artifact = trained(small, "privacy.epsilon=2", f"privacy.unit={unit}")
    record = artifact.manifest["privacy"]
    assert record["ledger"]["headline"]["epsilon"] == pytest.approx(2, rel=1e-3)
    assert "the public images (public_toy) show none of these patients" in record["ledger"]["assumptions"]
    assert "comparison with the public images" in record["ledger"]["statement"]
    card = artifact.path("README.md").read_text()
    patches = PatchSet.load(node_of(config_of(*with_phantoms(small)), "extract_public_patches").artifact())
    assert f"{len(patches)} public images of other people" in card
    assert "licence: Apache-2.0" in card
    head = load_file(artifact.path("head.safetensors"))
    assert head["0.weight"].shape == (2, 8)


def test_predictions_of_the_bundle_are_those_of_training(small, tmp_path):
    artifact = trained(small, "privacy.epsilon=2")
    every = (*with_phantoms(small), "privacy.epsilon=2", "stage=export",
             "export.accept=[seeded_noise,large_delta]")  # fmt: skip
    assert small.run(*every) == cli.DONE
    bundle = tmp_path / "elsewhere"
    shutil.copytree(node_of(config_of(*every)).folder / "bundle", bundle)
    assert (bundle / PREPARATION).read_bytes() == artifact.path(PREPARATION).read_bytes()
    assert "preparation.safetensors" in (bundle / "README.md").read_text()
    patches = node_of(config_of(*small.small), "extract_patches").artifact().folder / "toy_cbis" / "test"
    table = pd.read_csv(artifact.path("predictions.csv"))
    expected = table[(table["split"] == "test") & (table["source"] == "toy_cbis")].sort_values("patch")
    for model in (artifact.folder, bundle):
        words = (
            f"outputs={small.outputs}",
            "stage=predict",
            f"predict.model={model}",
            f"predict.input={patches}",
        )
        assert small.run(*words) == cli.DONE
        found = pd.read_csv(node_of(config_of(*words)).artifact().path("predictions.csv"))
        assert found["p_malignant"].to_numpy() == pytest.approx(expected["p_malignant"].to_numpy(), abs=2e-5)
    (bundle / PREPARATION).unlink()
    assert small.run(*words) != cli.DONE


def test_features_of_the_study_do_not_depend_on_the_public_set(small):
    with_public, without = config_of(*with_phantoms(small)), config_of(*small.small)
    assert node_of(with_public, "extract_features").name == node_of(without, "extract_features").name


def folder_of(small, tmp_path, *extra: np.ndarray) -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    for number, image in enumerate(
        [*(rng.integers(0, 255, (128, 128)).astype(np.uint8) for _ in range(20)), *extra]
    ):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), image)
    (tmp_path / "film.png").write_bytes(b"no image")
    return (*small.small, "public=patches", *RECIPE, f"public.root={tmp_path}", "public.population=others")


def test_a_mirrored_and_compressed_copy_of_a_training_patch_stops_the_run(small, tmp_path, capsys):
    patches = node_of(config_of(*small.small), "extract_patches").artifact().folder / "toy_cbis" / "train"
    image = cv2.imread(str(sorted(patches.rglob("*.png"))[3]), cv2.IMREAD_GRAYSCALE)[:, ::-1]
    copy = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0)
    words = (*folder_of(small, tmp_path, copy), "stage=train_classifier", "build_inputs=true")
    capsys.readouterr()
    assert small.run(*words) != cli.DONE
    refused = capsys.readouterr().err
    assert "1 patches of the public images are in the study as well" in refused
    assert "020" not in refused  # whoever learns which one is missing learns who is in the study
    assert "take another collection as a whole" in refused
    assert node_of(config_of(*words)).artifact() is None


def test_a_film_of_the_study_stops_the_run_whatever_is_cut_from_it(small, tmp_path, capsys):
    """A whole public mammogram that is a training film in another file format, turned by 180 degrees."""
    import pydicom

    rows = node_of(config_of(*small.small), "extract_patches").artifact()
    wanted = PatchSet.load(rows).index["source_sha256"].iloc[0]
    film = next(
        path
        for path in walk_files(small.root / "toy")
        if hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    )
    cv2.imwrite(str(tmp_path / "film.png"), pydicom.dcmread(film).pixel_array[::-1, ::-1])
    words = (*small.small, "public=mammograms", *RECIPE, f"public.root={tmp_path}", "public.population=others",
             "public.crops=30", "public.crop_side=[0.1,0.3]", "stage=train_classifier",
             "build_inputs=true")  # fmt: skip
    capsys.readouterr()
    assert small.run(*words) != cli.DONE
    assert "1 whole images of the public images are in the study as well" in capsys.readouterr().err


def test_a_study_of_people_who_were_public_before_is_no_claim(fresh, capsys):
    words = [*with_phantoms(fresh), "privacy.epsilon=2", "stage=export", "build_inputs=true",
             "export.accept=[seeded_noise,large_delta]"]  # fmt: skip
    assert fresh.run(*words) == cli.DONE
    others = [*words, "public.population=others", "public.dataset.population=others"]
    capsys.readouterr()
    assert fresh.run(*others, "dataset.population='public toy phantoms'") != cli.DONE
    assert "were the public images of an earlier bundle" in capsys.readouterr().err
    assert fresh.run(*others, "dataset.population='people of another town'") == cli.DONE


def test_an_equal_file_or_patient_stops_the_run(small, tmp_path, capsys):
    same = [word for word in with_phantoms(small) if not word.startswith("public.dataset.toy")]
    seed = config_of(*small.small).dataset.toy.seed
    same += [f"public.dataset.toy.seed={seed}", "public.dataset.toy.train_patients=12",
             "public.dataset.toy.test_patients=2", "public.dataset.toy.external_patients=2"]  # fmt: skip
    capsys.readouterr()
    assert small.run(*same, "stage=train_classifier", "build_inputs=true") != cli.DONE
    assert "files of the public images are in the study as well" in capsys.readouterr().err


def test_a_backbone_that_saw_the_patients_is_no_basis_of_a_claim(small):
    artifact = trained(small, "privacy.epsilon=2", "classifier.pretrained_on=[ImageNet,toy phantoms]")
    ledger = artifact.manifest["privacy"]["ledger"]
    assert ledger["headline"]["epsilon"] == "inf"
    assert "the backbone's weights were trained on images of these patients" in ledger["statement"]
    assert not any("weights come from data without" in assumption for assumption in ledger["assumptions"])
    other = trained(small, "privacy.epsilon=2", "classifier.pretrained_on=[ImageNet]")
    assert other.manifest["privacy"]["ledger"]["headline"]["epsilon"] == pytest.approx(2, rel=1e-3)


def pair_of(small, monkeypatch, prepare=None) -> int:
    """What the audit's pair of runs says of the trainer, with another preparation planted."""
    from mammo_dp.privacy.sampling import Randomness
    from mammo_dp.training.plans import make_plan
    from mammo_dp.training.units import training_patches, training_units
    from tests.conftest import calibrations

    config = config_of(*with_phantoms(small), "stage=train_classifier", "privacy.epsilon=2")
    inputs = {role: node.artifact() for role, node in node_of(config).inputs.items()}
    patches = training_patches(inputs)
    units, public = training_units(patches, config)
    plan, randomness = (
        make_plan(config, units=len(units), cache=calibrations()),
        Randomness(secure=False, seed=0, run="a"),
    )
    if prepare is not None:
        monkeypatch.setattr(build, "preparation", prepare)
    task = build.Task(config, patches, units, public, plan, randomness, torch.device("cpu"))
    return int(attack.pair(task, inputs, randomness)["differing"])


def test_directions_of_private_features_are_caught_by_the_audits_pair(small, monkeypatch):
    trained(small, "privacy.epsilon=2")
    assert pair_of(small, monkeypatch) == 0

    def of_the_study(config, inputs):
        features = load_file(inputs["features"].path(FEATURES))["features"]
        directions = Directions.fit(features, components=8, whitening=0.5)
        return Preparation(normalize=True, norm=3.33, average=True, directions=directions)

    assert pair_of(small, monkeypatch, of_the_study) > 0


def test_the_file_says_what_it_was_learnt_from(small):
    trained(small, "privacy.epsilon=2")
    node = node_of(config_of(*with_phantoms(small)), "fit_preparation")
    from safetensors import safe_open

    with safe_open(node.artifact().path(PREPARATION), "pt") as file:
        record = json.loads(file.metadata()["record"])
    assert record["name"] == "public_toy"
    assert record["images"] == node.inputs["features"].artifact().read_json("metrics.json")["patches"]
    assert set(record) == {"name", "population", "licence", "citation", "images"}
