import cv2
import numpy as np
import pytest

from mammo_dp.data import synthetic
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.errors import UserError
from mammo_dp.stages import node_of
from tests.conftest import config_of, shared


def published(folder, per_class=3):
    folder.mkdir(exist_ok=True)
    for label in ("benign", "malignant"):
        for number in range(per_class):
            cv2.imwrite(
                str(folder / f"batch_1_{number}_{label}.png"), np.full((128, 128), 9 * number, np.uint8)
            )
    return folder


def words_of(place, folder) -> tuple[str, ...]:
    made = ("synthetic=release", f"synthetic.root={folder}", "synthetic.per_class=3")
    return (*place.small, *made, "stage=sample_synthetic")


def test_names_carry_the_label(tmp_path):
    folder = published(tmp_path)
    (folder / "grid.png").write_bytes(b"")
    found = synthetic.read(folder, per_class=2)
    assert [lesion.malignant for lesion in found] == [False, False, True, True]
    assert len({lesion.patient for lesion in found}) == 4  # each a patient of its own
    with pytest.raises(UserError, match=r"synthetic\.per_class=3"):
        synthetic.read(folder, per_class=4)


def test_hold_out_is_by_name_alone():
    names = [f"batch_0_{i}_benign" for i in range(2000)]
    held = [synthetic.is_held_out(name, fraction=0.15) for name in names]
    assert 0.12 < np.mean(held) < 0.18
    assert not any(synthetic.is_held_out(name, fraction=0.0) for name in names)


def test_the_artifact_has_the_form_of_a_patch_set(place):
    words = words_of(place, published(place.root / "made"))
    assert place.run(*words) == 0
    patches = PatchSet.load(node_of(config_of(*words)).artifact())
    assert len(patches.rows("synthetic")) == len(patches) == 6
    assert patches.images.shape == (6, 128, 128)
    assert patches.malignant.sum() == 3
    joined = patches.joined(patches)
    assert len(joined) == 12
    assert np.array_equal(joined.images[:6], joined.images[6:])


def test_a_damaged_image_is_one_sentence(place):
    folder = published(place.root / "made")
    (folder / "batch_1_0_benign.png").write_bytes(b"no picture")
    words = (
        *place.small,
        "synthetic=release",
        f"synthetic.root={folder}",
        "synthetic.per_class=3",
        "stage=sample_synthetic",
    )
    assert place.run(*words) == 1
    sentence = place.said()[1]
    assert "batch_1_0_benign.png cannot be used" in sentence
    assert str(folder) not in sentence
    assert place.run(*words, "synthetic.per_class=9") == 2


def test_the_published_images():
    """1500 of each class, as the authors state."""
    found = synthetic.read(shared() / "data/release/synthetic/c-dcgan", per_class=1500)
    assert len(found) == 3000
