"""Public images without labels: what is cut from them, and where."""

import cv2
import numpy as np
import pytest

from mammo_dp.config.schema import Public
from mammo_dp.data.public import AIR, files_of, patches_of
from mammo_dp.errors import UserError

HEIGHT, WIDTH = 1000, 600


def film() -> np.ndarray:
    """A half ellipse of tissue on air."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = (x / 450) ** 2 + ((y - 500) / 450) ** 2 < 1
    noise = np.random.default_rng(0).integers(100, 180, (HEIGHT, WIDTH))
    return np.where(inside, noise, 5).astype(np.uint8)


def public(folder, **changed) -> Public:
    given = {"name": "films", "population": "others", "kind": "mammograms", "root": str(folder), "crops": 12}
    return Public.model_validate(given | changed)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a/film.png"), film())
    cv2.imwrite(str(tmp_path / "air.png"), np.full((300, 200), 3, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_crops_show_tissue_of_the_size_asked_for_and_repeat(folder):
    settings = public(folder)
    path = folder / "a/film.png"
    crops = patches_of(settings, path, size=128)
    assert len(crops) == 12
    whole = film()
    for crop in crops:
        box = crop.box
        assert box.width == box.height
        assert 0.06 * HEIGHT - 1 <= box.width <= 0.16 * HEIGHT + 1
        assert (whole[box.y0 : box.y1, box.x0 : box.x1] > AIR).mean() > 0.9
        assert crop.pixels.shape == (128, 128)
        assert crop.file == "a/film.png"
        by_hand = cv2.resize(whole[box.y0 : box.y1, box.x0 : box.x1], (128, 128), interpolation=(
            cv2.INTER_AREA if box.width >= 128 else cv2.INTER_LINEAR))  # fmt: skip
        assert np.array_equal(crop.pixels, by_hand)
    again = patches_of(settings, path, size=128)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(crops, again, strict=True))
    other = patches_of(public(folder, seed=1), path, size=128)
    assert {crop.box for crop in other}.isdisjoint({crop.box for crop in crops})


def test_an_image_without_tissue_or_that_is_no_patch_gives_a_reason(folder):
    assert "too little of the image is tissue" in patches_of(public(folder), folder / "air.png", size=128)
    assert "not square" in patches_of(public(folder, kind="patches"), folder / "air.png", size=128)
    (folder / "bad.png").write_bytes(b"\x89PNG no more")
    assert isinstance(patches_of(public(folder), folder / "bad.png", size=128), str)


def test_files_are_found_at_any_depth_and_none_is_told(folder, tmp_path):
    assert [path.name for path in files_of(public(folder))] == ["film.png", "air.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        files_of(public(tmp_path / "empty"))
    with pytest.raises(UserError, match="is not a folder"):
        files_of(public(tmp_path / "gone"))
