"""The five setups through the command line, norm_head and stochastic depth."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mammo_dp.engine.artifacts import Store
from mammo_dp.errors import UserError
from mammo_dp.models.backbone import build_backbone, take_norm
from mammo_dp.models.features import encoder, with_stochastic_depth
from mammo_dp.stages import node_of
from tests.conftest import config_of

pytestmark = pytest.mark.slow

MADE = (
    "build_inputs=true", "stage=train_classifier", "synthetic.per_class=8", "gan.epochs=2", "gan.checkpoint_every=2",
    "gan.stop_after=9", "recipe.epochs=3", "recipe.batch_size=16", "pretraining.epochs=2", "pretraining.batch_size=8",
    "synthetic.val_fraction=0.5", "dataset.val_fraction=0.3",
)  # fmt: skip


def run(small, *words: str):
    every = [*small.small, *MADE, *words]
    assert small.run(*every) == 0
    return node_of(config_of(*every)).artifact()


@pytest.mark.parametrize("select", ["last", "average", "best_val"])
@pytest.mark.parametrize("experiment", ["real", "syn", "synpre", "real_syn", "synpre_realft"])
def test_every_setup_selects_an_epoch_and_says_what_it_spent(small, experiment, select):
    private = experiment in ("real", "real_syn", "synpre_realft")
    words = (f"recipe.select={select}", f"pretraining.select={select}", "privacy.accountant=rdp")
    artifact = run(small, f"experiment={experiment}", f"privacy.epsilon={2 if private else 'inf'}", *words)
    training = artifact.read_json("metrics.json")["training"]
    assert 0 <= training["selected_epoch"] <= 3
    assert ("epsilon_at_selected_epoch" in training) == private
    if private:
        assert 0 < training["epsilon_at_selected_epoch"] <= 2.0001
        assert artifact.manifest["privacy"]["epsilon_spent"] <= 2
    assert "intervals" in artifact.read_json("metrics.json")["test"]["toy_cbis"]
    assert "not for clinical use" in artifact.path("README.md").read_text().lower()


def test_synpre_trains_the_backbone_and_realft_goes_on_from_that_of_its_seed(small):
    common = ("recipe.select=last", "pretraining.select=last", "privacy.accountant=rdp")
    folders, backbones = {}, {}
    for seed in (1, 2):
        tuned = run(small, "experiment=synpre_realft", "privacy.epsilon=2", f"seed={seed}", *common)
        folders[seed] = tuned.manifest["inputs"]["backbone"]["artifact"]
        before = Store(small.outputs).load(small.outputs / folders[seed])
        assert before.manifest["settings"]["seed"] == seed
        backbones[seed] = load_file(before.path("backbone.safetensors"))
        assert set(load_file(tuned.path("head.safetensors"))) == {
            "0.weight",
            "0.bias",
        }  # linear, whatever the recipe
        features = Store(small.outputs).load(small.outputs / tuned.manifest["inputs"]["features"]["artifact"])
        assert features.manifest["inputs"]["backbone"]["artifact"] == folders[seed]
    start = build_backbone(config_of(*small.small).classifier).state_dict()
    assert any((backbones[1][key] != start[key]).any() for key in start)
    assert any((backbones[1][key] != backbones[2][key]).any() for key in start)


def test_realft_starts_from_the_head_of_synpre_unless_it_starts_at_zero(small):
    still = (
        "recipe.lr=1e-30",
        "recipe.select=last",
        "pretraining.select=last",
        "privacy.epsilon=inf",
        "recipe.epochs=1",
    )
    tuned = run(small, "experiment=synpre_realft", *still)
    before = load_file(small.outputs / tuned.manifest["inputs"]["backbone"]["artifact"] / "head.safetensors")
    for key, value in load_file(tuned.path("head.safetensors")).items():
        torch.testing.assert_close(value, before[key])
    zero = run(small, "experiment=synpre_realft", *still, "recipe.zero_init=true")
    assert load_file(zero.path("head.safetensors"))["0.weight"].abs().max() < 1e-6


def test_synthetic_only_runs_validate_on_real_patients_only_when_asked(small):
    def validation_events(*words: str) -> list[str]:
        artifact = run(small, "experiment=syn", "privacy.epsilon=inf", "recipe.select=best_val", *words)
        events = artifact.manifest["privacy"]["ledger"]["events"]
        return [e["what"] for e in events if e["cohort"] == "validation" and e["effect"] == "shapes_model"]

    assert validation_events() == []
    assert validation_events("synthetic.validation=real") == ["choice of the epoch"]


def test_a_recipe_does_not_change_synpre(small):
    words = [*small.small, *MADE, "experiment=synpre", "privacy.epsilon=inf"]
    assert node_of(config_of(*words)).folder == node_of(config_of(*words, "recipe=dp_gd")).folder
    assert node_of(config_of(*words)).folder != node_of(config_of(*words, "pretraining.epochs=1")).folder
    tuned = [*small.small, *MADE, "experiment=synpre_realft", "privacy.epsilon=2", "privacy.delta=0.01"]
    assert node_of(config_of(*tuned)).inputs["backbone"].folder == node_of(config_of(*words)).folder


def test_the_norm_of_a_swin_comes_apart_and_gives_the_same_features(small):
    settings = config_of(*small.small).classifier
    images = torch.randn(3, 3, 64, 64)
    backbone = build_backbone(settings)
    with torch.no_grad():
        backbone.norm.weight.uniform_(0.5, 2)
        backbone.norm.bias.uniform_(-1, 1)
        before = backbone(images)
        affine = take_norm(backbone, settings)
        torch.testing.assert_close(affine(backbone(images)), before, rtol=1e-4, atol=1e-5)
        assert (backbone(images) - before).abs().max() > 0.1
    mobile = settings.model_copy(
        update={"backbone": "mobilenetv2_100", "backbone_args": {}, "weights": "none"}
    )
    with pytest.raises(UserError, match="norm_head needs a backbone"):
        take_norm(build_backbone(mobile), mobile)


@pytest.mark.parametrize("cached", ["true", "false"])
def test_norm_head_trains_scale_and_shift_under_privacy(small, cached):
    words = ("classifier.trainable=norm_head", "privacy.epsilon=2", "privacy.accountant=rdp", "recipe.select=last",
             "recipe.lr=0.01", f"classifier.cache_features={cached}")  # fmt: skip
    artifact = run(small, "experiment=synpre_realft", "pretraining.select=last", *words)
    head = load_file(artifact.path("head.safetensors"))
    assert set(head) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    backbone = load_file(
        small.outputs / artifact.manifest["inputs"]["backbone"]["artifact"] / "backbone.safetensors"
    )
    assert 0 < (head["0.weight"] - backbone["norm.weight"]).abs().max() < 1


def test_stochastic_depth_is_random_in_training_alone_and_repeats(small):
    settings = config_of(*small.small).classifier
    mobile = {"backbone": "mobilenetv2_100", "backbone_args": {}, "weights": "none"}
    without = build_backbone(settings.model_copy(update=mobile))
    with pytest.raises(UserError, match="has none"):
        with_stochastic_depth(without)
    args = {**settings.backbone_args, "drop_path_rate": 0.5}
    backbone = with_stochastic_depth(build_backbone(settings.model_copy(update={"backbone_args": args})))
    encode = encoder(backbone, torch.device("cpu"), precision="float32")
    images = torch.randn(8, 3, 64, 64)
    assert (encode(images) - encode(images)).abs().max() > 1e-3
    words = (
        "recipe.select=last",
        "privacy.epsilon=inf",
        "recipe.epochs=1",
        "+classifier.backbone_args.drop_path_rate=0.5",
    )
    eval_ = run(small, *words, "seed=3")
    first = run(small, *words, "classifier.backbone_mode=train", "seed=3")
    again = run(small, *words, "classifier.backbone_mode=train", "seed=3", "force=true")
    heads = [load_file(a.path("head.safetensors"))["0.weight"] for a in (eval_, first, again)]
    assert torch.equal(heads[1], heads[2])
    assert not torch.equal(heads[0], heads[1])
    assert first.manifest["inputs"].keys() == {"patches"}
    assert json.loads((first.folder / "metrics.json").read_text())["test"]["toy_cbis"]["n"] > 0
    assert np.isfinite(heads[1].numpy()).all()


@pytest.mark.parametrize("experiment", ["syn", "synpre"])
def test_a_run_on_synthetic_images_alone_knows_nothing_of_real_patients(small, tmp_path, experiment):
    """Published images, other patients: the same weights, though patches, features and test scores are others."""
    folder = tmp_path / "made"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        label = ("benign", "malignant")[number % 2]
        cv2.imwrite(
            str(folder / f"batch_0_{number}_{label}.png"), rng.integers(0, 255, (128, 128)).astype(np.uint8)
        )
    found = []
    for patients in (16, 14):
        words = [*small.small, *MADE, f"experiment={experiment}", "privacy.epsilon=inf", "synthetic=release",
                 f"synthetic.root={folder}", "synthetic.trained_on=nobody", f"dataset.toy.train_patients={patients}",
                 f"outputs={tmp_path}/{patients}"]  # fmt: skip
        assert small.run(*words) == 0
        node = node_of(config_of(*words))
        found.append({p.name: p.read_bytes() for p in node.folder.glob("*.safetensors")})
    assert found[0] == found[1]
    assert len(found[0]) == (2 if experiment == "synpre" else 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("classifier.trainable=norm_head",), "norm_head needs a backbone"),
        (("classifier.backbone_mode=train",), "has none"),
        (("classifier.input_size=20", "classifier.trainable=all", "privacy.epsilon=inf"), "does not take"),
    ],
)
def test_a_backbone_that_cannot_is_refused_before_anything_is_built(place, words, said):
    """Though its inputs, a GAN and a pretraining among them, would come first."""
    backbone = () if "input_size" in words[0] else ("classifier=mobilenetv2", "classifier.weights=none")
    small = [word for word in place.small if word != "classifier=swin_micro" or not backbone]
    every = [
        *small,
        *MADE,
        "experiment=synpre_realft",
        "privacy.accountant=rdp",
        "recipe.select=last",
        *backbone,
    ]
    assert place.run(*every, *words) == 2
    assert said in place.said()[1]
    assert not place.outputs.exists() or not place.folders("train_gan")


def test_a_report_is_made_again_when_a_run_was(fresh):
    """The same settings, other noise: the report of before is not taken for it."""
    words = ("recipe=dp_gd", "privacy.epsilon=2", "privacy.randomness=secure", "seed=41")
    folders = []
    for again in ("false", "true"):
        run(fresh, *words, f"force={again}")
        assert fresh.run("stage=report", f"outputs={fresh.outputs}") == 0
        folders.append(node_of(config_of("stage=report", f"outputs={fresh.outputs}")).folder)
    assert folders[0] != folders[1]
    assert all((folder / "report.html").is_file() for folder in folders)
