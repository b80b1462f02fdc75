"""The toy at the demo's size: hard enough, easy enough, and telling only by shape."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mammo_dp import cli
from mammo_dp.data import toy
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.files import Cache
from mammo_dp.models.head import build_head
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.stages import node_of
from mammo_dp.training.build import cached_features
from mammo_dp.training.head_trainer import HeadTrainer, predict
from mammo_dp.training.plans import make_plan
from tests.conftest import Workplace, config_of

pytestmark = pytest.mark.slow

WORDS = ("dataset=toy", "classifier=swin_micro", "recipe=dp_gd", "privacy.epsilon=inf")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("demo"))
    words = (*WORDS, f"dataset.root={place.root}/toy", f"outputs={place.outputs}")
    assert place.run(*words, "stage=extract_features", "build_inputs=true") == cli.DONE
    return config_of(*words)


def auroc(config, patches, source, labels, truth=None) -> dict[str, float]:
    positions = patches.rows("train")
    trainer = HeadTrainer(
        build_head(config.recipe, features=64, seed=0), source, Units.of_each(positions), torch.from_numpy(labels),
        plan=make_plan(config, units=len(positions), cache=Cache(positions)),  # nothing to calibrate
        recipe=config.recipe, randomness=Randomness(secure=False, seed=0, run="run"), device=torch.device("cpu"),
    )  # fmt: skip
    for _ in range(trainer.plan.steps):
        trainer.step()
    trainer.head.load_state_dict(trainer.selection.selected()[0])
    truth = patches.malignant if truth is None else truth
    scores = {}
    for name in ("toy_cbis", "toy_bcdr"):
        rows = patches.rows("test", name)
        scores[name] = roc_auc_score(truth[rows], predict(trainer.head, source, rows, test_flips=True))
    return scores


def test_difficulty_and_controls(demo):
    patches = PatchSet.load(node_of(demo, "extract_patches").artifact())
    inputs = {"features": node_of(demo, "extract_features").artifact()}
    source, _, width = cached_features(demo, inputs, torch.device("cpu"))
    assert width == 64

    honest = auroc(demo, patches, source, patches.malignant)
    assert 0.75 < honest["toy_cbis"] < 0.98
    assert honest["toy_bcdr"] > 0.65

    # With all labels permuted, every permutation. With the training labels alone permuted, the mean over many: a few
    # directions carry the features, and a random fit may fall along or against the true one.
    rng = np.random.default_rng(0)
    for _ in range(5):
        labels = rng.permutation(patches.malignant)
        assert 0.4 < auroc(demo, patches, source, labels, truth=labels)["toy_cbis"] < 0.6
    permuted = [
        auroc(demo, patches, source, rng.permutation(patches.malignant))["toy_cbis"] for _ in range(25)
    ]
    assert 0.4 < np.mean(permuted) < 0.6

    brightness = patches.images.mean((1, 2))
    for name in ("toy_cbis", "toy_bcdr"):
        rows = patches.rows("test", name)
        score = roc_auc_score(patches.malignant[rows], brightness[rows])
        assert max(score, 1 - score) < 0.65

    assert len(patches.rows("train")) == pytest.approx(demo.public_count, rel=0.1)


def test_drawing_is_seeded(demo):
    settings = demo.dataset.toy
    first, again, other = (
        toy.draw_study(np.random.default_rng(seed), 1, settings, second_mass=True) for seed in (0, 0, 1)
    )
    assert np.array_equal(first.views[0].pixels, again.views[0].pixels)
    assert not np.array_equal(first.views[0].pixels, other.views[0].pixels)
    assert [len(view.masses) for view in first.views] == [2, 1]


def test_area_and_contrast_do_not_tell_the_class():
    rng = np.random.default_rng(0)
    masses = [toy.draw_mass(rng, number=1, malignant=bool(i % 2)) for i in range(2000)]
    labels = [m.malignant for m in masses]
    for value in ([np.mean(m.radii**2) for m in masses], [m.contrast for m in masses]):
        assert roc_auc_score(labels, value) == pytest.approx(0.5, abs=0.04)
    assert roc_auc_score(labels, [np.std(m.radii) / np.mean(m.radii) for m in masses]) > 0.9  # the shape does
