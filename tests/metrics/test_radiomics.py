"""The radiomics distance against frd-score's own command, where the extra is installed; a clear sentence where not."""

import cv2
import numpy as np
import pytest

from mammo_dp.errors import UserError
from mammo_dp.metrics import radiomics


def blobs(n: int, seed: int, blur: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(128, 80, (n, 64, 64)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(x, (0, 0), blur) for x in noise]).clip(0, 255).astype(np.uint8)


def test_without_the_extra_one_sentence_says_what_to_run(monkeypatch):
    def nothing(name):
        raise radiomics.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(radiomics.importlib.metadata, "version", nothing)
    assert radiomics.installed() is None
    with pytest.raises(UserError, match=r"scripts/radiomics\.sh"):
        radiomics.radiomics_features(blobs(1, 0, 2), workers=1)


@pytest.mark.skipif(radiomics.installed() is None, reason="the extra `radiomics` is not installed")
def test_equals_frd_score(tmp_path):
    """compute_frd with masks of the whole patch, which reads folders and does everything by itself."""
    from frd_score import compute_frd

    sets = {"a": blobs(40, 0, 2), "b": blobs(40, 1, 3)}
    mask = np.ones((64, 64), np.uint8)
    mask[0, 0] = 0
    for name, images in sets.items():
        for kind in ("images", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
        for number, image in enumerate(images):
            cv2.imwrite(str(tmp_path / name / "images" / f"{number:02d}.png"), image)
            cv2.imwrite(str(tmp_path / name / "masks" / f"{number:02d}.png"), mask)
    theirs = compute_frd(
        [str(tmp_path / name / "images") for name in sets], frd_version="v0", num_workers=1,
        paths_masks=[str(tmp_path / name / "masks") for name in sets],
    )  # fmt: skip
    features = [radiomics.radiomics_features(images, workers=1) for images in sets.values()]
    assert features[0].shape == (40, 102)
    assert radiomics.radiomics_distance(*features) == pytest.approx(theirs, rel=1e-6)
    assert radiomics.radiomics_distance(*features) > radiomics.radiomics_distance(
        features[0][::2], features[0][1::2]
    )
