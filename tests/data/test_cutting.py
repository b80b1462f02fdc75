"""What a worker makes of one image: geometry over random boxes, sizes and borders, from files to PNG."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_dp.data import cutting
from mammo_dp.data.cutting import Geometry, Place, Task, cut_image
from mammo_dp.data.patches import Box, window
from mammo_dp.data.records import MaskFile, Outline, WholeImage

PAPER = Geometry(box="contour", margin=60, min_side=128, size=128)


def png(path, array):
    path.write_bytes(cv2.imencode(".png", array)[1].tobytes())
    return path


def one(image, region, geometry=PAPER) -> Place | str:
    return cut_image(Task(image, ((7, region),), geometry)).outcomes[7]


def patch_of(image, region, geometry=PAPER) -> np.ndarray:
    png = cut_image(Task(image, ((7, region),), geometry)).pngs[7]
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def rectangle(x0, y0, x1, y1) -> Outline:
    return Outline(np.array([[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]))


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(30, 700), width=st.integers(30, 700), margin=st.integers(0, 60), min_side=st.integers(8, 150),
    corner=st.tuples(st.floats(0, 0.97), st.floats(0, 0.97)), deep=st.booleans(),
    extent=st.tuples(st.floats(0.01, 0.7), st.floats(0.01, 0.7)), by_mask=st.booleans(),
)  # fmt: skip
def test_any_lesion_anywhere(
    tmp_path_factory, height, width, margin, min_side, corner, extent, deep, by_mask
):
    """Lesion inside the patch, square window, 128x128 uint8, centred within 1 px unless shifted by the border, nothing
    read outside the image, no constant border."""
    x0, y0 = int(corner[0] * width), int(corner[1] * height)
    x1, y1 = (
        min(width, x0 + max(1, int(extent[0] * width))),
        min(height, y0 + max(1, int(extent[1] * height))),
    )
    rng = np.random.default_rng(height * width)
    image = rng.integers(2, 250, (height, width), dtype=np.uint8)
    image[0, 0], image[-1, -1] = 1, 251  # the extremes, so that 16 bits and 8 bits are scaled alike
    folder = tmp_path_factory.mktemp("any")
    mask = np.zeros((height, width), np.uint8)
    mask[y0:y1, x0:x1] = 255
    if by_mask and 2 * np.count_nonzero(mask) > mask.size:
        by_mask = False
    path = png(folder / "image.png", image.astype(np.uint16) * 200 if deep else image)
    region = MaskFile((png(folder / "mask.png", mask),)) if by_mask else rectangle(x0, y0, x1, y1)
    found = one(path, region, Geometry("contour", margin, min_side, 128))
    assert isinstance(found, Place), found
    assert found.box == Box(x0, y0, x1, y1)

    square = window(found.box, shape=(height, width), margin=margin, min_side=min_side)
    side = max(x1 - x0, y1 - y0, min_side) + 2 * margin
    assert square.width == square.height == side
    assert square.x0 <= x0 < x1 <= square.x1
    assert square.y0 <= y0 < y1 <= square.y1
    for low, high, limit, a, b in (
        (square.x0, square.x1, width, x0, x1), (square.y0, square.y1, height, y0, y1),
    ):  # fmt: skip
        centred = abs((low + high) - (a + b)) <= 1
        if side <= limit:
            assert 0 <= low < high <= limit
            assert centred or low == 0 or high == limit
        else:
            assert centred

    # the same window worked out by indices: mirrored at the border, each edge pixel twice
    rows, columns = (mirrored(np.arange(a, b), limit) for a, b, limit in (
        (square.y0, square.y1, height), (square.x0, square.x1, width)))  # fmt: skip
    eight = (
        np.rint((image.astype(np.float32) - 1) * np.float32(255 / 250)).astype(np.uint8) if deep else image
    )
    interpolation = cv2.INTER_AREA if side >= 128 else cv2.INTER_LINEAR
    expected = cv2.resize(eight[np.ix_(rows, columns)], (128, 128), interpolation=interpolation)
    patch = patch_of(path, region, Geometry("contour", margin, min_side, 128))
    assert patch.shape == (128, 128)
    assert patch.dtype == np.uint8
    assert np.abs(patch.astype(int) - expected).max() <= (1 if deep else 0)
    assert all(np.ptp(edge) > 0 for edge in (patch[0], patch[-1], patch[:, 0], patch[:, -1]))


def mirrored(positions: np.ndarray, limit: int) -> np.ndarray:
    """... 2 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    inside = positions % (2 * limit)
    return np.where(inside < limit, inside, 2 * limit - 1 - inside)


@pytest.fixture
def image(tmp_path):
    return png(tmp_path / "image.png", np.random.default_rng(0).integers(0, 256, (400, 300), dtype=np.uint8))


def test_outline_lies_on_the_lesion_in_the_patch(image):
    found = one(image, rectangle(100, 150, 200, 250))
    assert isinstance(found, Place)
    outline = np.array(found.outline)
    # side 128 + 120 = 248 px from (26, 76), shrunk to 128
    assert np.abs(outline.min(0) - (np.array([100, 150]) - (26, 76)) * 128 / 248).max() <= 1
    assert np.abs(outline.max(0) - (np.array([199, 249]) - (26, 76)) * 128 / 248).max() <= 1


def test_all_lesions_of_an_image_from_one_reading(image, monkeypatch):
    reads = []
    monkeypatch.setattr(
        cutting, "read_image", lambda path, read=cutting.read_image: reads.append(path) or read(path)
    )
    outside = rectangle(1000, 1000, 1010, 1010)
    task = Task(image, ((3, rectangle(5, 5, 50, 50)), (1, outside), (2, rectangle(90, 5, 99, 50))), PAPER)
    result = cut_image(task)
    assert len(reads) == 1
    assert isinstance(result.outcomes[3], Place)
    assert "outside" in result.outcomes[1]  # type: ignore[operator]
    assert isinstance(result.outcomes[2], Place)
    assert len(result.thumbnail) == 32 * 32
    assert len(result.sha256) == 64


def test_no_patch_of_a_single_grey_value(tmp_path):
    empty = np.zeros((600, 600), np.uint8)
    empty[0, 0] = 9
    assert "single grey value" in one(png(tmp_path / "x.png", empty), rectangle(300, 300, 350, 350))


def test_prepared_patches_are_taken_whole(tmp_path, image):
    square = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    assert np.array_equal(patch_of(png(tmp_path / "x.png", square), WholeImage()), square)
    assert "not square" in one(image, WholeImage())


def test_box_of_all_that_is_marked(tmp_path, image):
    mask = np.zeros((400, 300), np.uint8)
    mask[100:150, 100:150] = 255
    mask[200, 200] = 255
    region = MaskFile((png(tmp_path / "m.png", mask),))
    assert one(image, region).box == Box(100, 100, 150, 150)  # type: ignore[union-attr]
    every = one(image, region, Geometry("mask", 60, 128, 128))
    assert every.box == Box(100, 100, 201, 201)  # type: ignore[union-attr]


def test_the_mask_among_candidates(tmp_path, image):
    mask = np.zeros((400, 300), np.uint8)
    mask[100:150, 100:150] = 255
    good, missing = png(tmp_path / "m.png", mask), tmp_path / "none.png"
    assert isinstance(one(image, MaskFile((image, good, missing))), Place)
    assert one(image, MaskFile((missing,))) == "file cannot be read (No such file or directory)"
    assert "2 files look like" in one(image, MaskFile((good, good)))


def test_thumbnails_do_not_tell_depth_or_scale(tmp_path):
    """What duplicates.py compares: the same film at 8 bits, at 16 bits, at half the size, and another film."""
    coarse = np.random.default_rng(1).integers(20, 200, (10, 8), dtype=np.uint8)
    film = cv2.resize(coarse, (1200, 1600), interpolation=cv2.INTER_LINEAR)
    other = film[::-1]
    half = cv2.resize(film, (600, 800), interpolation=cv2.INTER_AREA)
    forms = {"8": film, "16": film.astype(np.uint16) * 100, "half": half, "other": other}
    thumbnails = {}
    for name, array in forms.items():
        task = Task(png(tmp_path / f"{name}.png", np.ascontiguousarray(array)), (), PAPER)
        thumbnails[name] = np.frombuffer(cut_image(task).thumbnail, np.uint8).astype(int)
    for name in ("16", "half"):
        assert np.abs(thumbnails[name] - thumbnails["8"]).max() <= 2, name
    assert np.abs(thumbnails["other"] - thumbnails["8"]).max() > 50


def test_a_fault_of_ours_is_a_reason_that_shows(image, monkeypatch):
    def breaks(*arguments, **options):
        raise KeyError("Anna")

    monkeypatch.setattr(cutting.patches, "window", breaks)
    assert one(image, rectangle(5, 5, 50, 50)) == "unexpected KeyError over this image; please report it"
