"""Features of a space are measured once for each artifact, in the order of the patches."""

from pathlib import Path

import numpy as np
import torch

from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Store
from mammo_dp.files import Cache
from mammo_dp.models.feature_spaces import FeatureSpace, open_space
from tests.conftest import config_of


def test_once_for_each_artifact(small, tmp_path):
    words = ["synthetic.per_class=5", "gan.epochs=1", "gan.checkpoint_every=1", "recipe=dp_gd"]
    assert small.run(*small.small, *words, "build_inputs=true", "stage=sample_synthetic") == 0
    store = Store(small.outputs)
    real, made = (
        PatchSet.load(store.finished(stage)[0]) for stage in ("extract_patches", "sample_synthetic")
    )
    measured: list[int] = []

    def measure(images: np.ndarray) -> torch.Tensor:
        measured.append(len(images))
        return torch.from_numpy(images.reshape(len(images), 1, -1)[..., ::500].astype(np.float32))

    space = FeatureSpace("pixels", "1", measure, flips=False)
    cache = Cache(tmp_path)
    both = real.joined(made)
    found = space.features(both, cache)
    assert torch.equal(
        found[:, 0], torch.from_numpy(both.images.reshape(len(both), -1)[:, ::500].astype(np.float32))
    )
    assert measured == [len(real), len(made)]
    assert torch.equal(space.features(both, cache), found)
    assert torch.equal(space.features(real, cache), found[: len(real)])
    assert measured == [len(real), len(made)]
    FeatureSpace("pixels", "2", measure, flips=False).features(made, cache)
    assert measured[2:] == [len(made)]


def test_the_backbone_s_space_has_all_flips(small, tmp_path):
    patches = PatchSet.load(Store(small.outputs).finished("extract_patches")[0])
    space = open_space("backbone", config_of("dataset=toy"), torch.device("cpu"), Cache(Path(tmp_path)))
    assert space.measure(patches.images[:3]).shape == (3, 4, 64)
