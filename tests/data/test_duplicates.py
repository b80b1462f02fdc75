import cv2
import numpy as np
import pytest

from mammo_dp.data.duplicates import Cut, clusters, contradicts, copied_patches, dropped, same_pictures
from mammo_dp.data.patches import Box
from tests.conftest import shared

RNG = np.random.default_rng(0)
FILM, OTHER = (RNG.integers(0, 256, (32, 32), dtype=np.uint8) for _ in range(2))
BOX, NEAR, FAR = Box(100, 100, 200, 200), Box(110, 110, 210, 205), Box(160, 160, 260, 260)


def cut(number, thumbnail=FILM, box=BOX, *, malignant=False, shape=(1000, 800)) -> Cut:
    return Cut(number, thumbnail.tobytes(), shape, box, malignant)


def numbers(found) -> list[list[int]]:
    return [[lesion.number for lesion in cluster] for cluster in found]


def test_same_picture_and_place():
    copied = np.clip(FILM.astype(int) + RNG.integers(-2, 3, FILM.shape), 0, 255).astype(np.uint8)
    lesions = [
        cut(0), cut(1, OTHER), cut(2, copied), cut(3, FILM, NEAR), cut(4, FILM, FAR),
    ]  # fmt: skip
    assert numbers(clusters(lesions)) == [[0, 2, 3]]


def test_the_same_film_at_another_scale():
    """Positions are compared as shares of the image."""
    half = cut(1, box=Box(50, 50, 100, 100), shape=(500, 400))
    assert numbers(clusters([cut(0), half])) == [[0, 1]]
    assert clusters([cut(0), cut(1, shape=(500, 800), box=Box(100, 50, 200, 100))]) == []  # another aspect
    assert clusters([cut(0), cut(1, shape=(500, 400))]) == []  # another place


def test_one_pixel_of_three_grey_levels_is_another_picture():
    changed = FILM.copy()
    changed[5, 5] = changed[5, 5] + 3 if changed[5, 5] < 250 else changed[5, 5] - 3
    assert clusters([cut(0), cut(1, changed)]) == []


def test_many_pictures_are_told_apart():
    """Against all pairs, one by one; thumbnails of real pictures are alike, so these are too."""
    base = cv2.GaussianBlur(RNG.random((32, 32)), (0, 0), 6)
    pictures = [np.rint(120 + 40 * base + RNG.normal(0, 1, (32, 32))).astype(np.uint8) for _ in range(60)]
    lesions = [cut(n, pictures[n % 60]) for n in range(90)]
    expected = set()
    for a in lesions:
        for b in lesions:
            pixels = [np.frombuffer(x.thumbnail, np.uint8).astype(int) for x in (a, b)]
            if a.number < b.number and np.abs(pixels[0] - pixels[1]).max() <= 2:
                expected.add((a.number, b.number))
    assert {tuple(cluster) for cluster in numbers(clusters(lesions))} == expected
    assert len(expected) == 30


@pytest.mark.parametrize(
    ("policy", "labels", "gone"),
    [
        ("keep", [0, 0, 0], []),
        ("drop", [0, 0, 0], [1, 2]),
        ("drop", [0, 1, 0], [1, 2]),
        ("drop_conflicts", [1, 1, 1], [1, 2]),
        ("drop_conflicts", [0, 1, 0], [0, 1, 2]),
    ],
)
def test_policies(policy, labels, gone):
    cluster = [cut(n, malignant=bool(label)) for n, label in enumerate(labels)]
    assert contradicts(cluster) == (len(set(labels)) > 1)
    members, why = dropped(cluster, policy)
    assert [member.number for member in members] == gone
    assert bool(why) == bool(gone)


def test_nothing_to_compare():
    assert clusters([]) == []
    assert clusters([cut(0)]) == []


# --- the same patch in another set ----------------------------------------------------------------------------------


def blobs(count: int, seed: int) -> np.ndarray:
    """Smooth random textures of 128 px."""
    rng = np.random.default_rng(seed)
    small = rng.random((count, 12, 12)).astype(np.float32)
    large = np.stack([cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC) for image in small])
    return (large.clip(0, 1) * 255).astype(np.uint8)


COPIES = {
    "as it is": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "both": lambda image: image[::-1, ::-1],
    "JPEG": lambda image: cv2.imdecode(
        cv2.imencode(".jpg", image[:, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])[1], 0
    ),
    "turned by 90 degrees": lambda image: np.ascontiguousarray(image.T[::-1]),
    "inverted": lambda image: 255 - image,
    "brighter": lambda image: (((image / 255) ** 1.2) * 200 + 20).astype(np.uint8),
    "smaller": lambda image: cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA),
}


@pytest.mark.parametrize("how", list(COPIES))
def test_a_copy_of_a_patch_is_found(how):
    patches = blobs(40, seed=0)
    copy = COPIES[how](patches[17])
    others = [cv2.resize(image, copy.shape[::-1]) for image in blobs(20, seed=1)]
    others[5] = copy
    assert copied_patches(patches, np.stack(others)) == [(17, 5)]


def test_whole_images_are_found_in_any_position_and_no_others():
    pictures = np.stack([cv2.resize(image, (32, 32)) for image in blobs(30, seed=0)])
    others = np.stack([cv2.resize(image, (32, 32)) for image in blobs(10, seed=1)])
    others[4] = np.clip(pictures[12].T[::-1].astype(int) + 2, 0, 255)
    others[5] = pictures[7] = 0
    assert same_pictures(pictures.reshape(30, -1), others.reshape(10, -1)) == [(12, 4)]


def test_other_patches_are_no_copies():
    assert copied_patches(blobs(60, seed=0), blobs(60, seed=1)) == []
    assert copied_patches(blobs(3, seed=0)[:0], blobs(3, seed=1)) == []


def test_real_patches_of_other_people_are_no_copies():
    """CBIS-DDSM against mini-MIAS; one patch mirrored and compressed is found among them."""
    root = shared() / "data"
    read = [
        np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(folder)])
        for folder in (
            (root / "release/cbis-ddsm/train").rglob("*.png"),
            (root / "public/mias_patches").glob("*.png"),
        )
    ]
    assert copied_patches(*read) == []
    read[1][100] = COPIES["JPEG"](read[0][500])
    assert copied_patches(*read) == [(500, 100)]
