import cv2
import numpy as np
import pytest

from mammo_dp.data.duplicates import Cut, clusters, contradicts, dropped
from mammo_dp.data.patches import Box

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
