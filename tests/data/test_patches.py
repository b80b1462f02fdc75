import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_dp.data.patches import Box, cut, region_of_mask, region_of_outline, resize, window


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(40, 600), width=st.integers(40, 600), margin=st.integers(0, 60), min_side=st.integers(1, 150),
    corner=st.tuples(st.floats(0, 0.95), st.floats(0, 0.95)), extent=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)  # fmt: skip
def test_window(height, width, margin, min_side, corner, extent):
    x0, y0 = int(corner[0] * width), int(corner[1] * height)
    x1 = min(width, x0 + max(1, int(extent[0] * width)))
    y1 = min(height, y0 + max(1, int(extent[1] * height)))
    box = Box(x0, y0, x1, y1)
    square = window(box, shape=(height, width), margin=margin, min_side=min_side)
    assert square.width == square.height == max(box.width, box.height, min_side) + 2 * margin
    assert square.x0 <= box.x0
    assert square.x1 >= box.x1
    for low, high, limit, a, b in (
        (square.x0, square.x1, width, x0, x1), (square.y0, square.y1, height, y0, y1),
    ):  # fmt: skip
        centred = abs((low + high) - (a + b)) <= 1
        if high - low <= limit:
            assert low >= 0
            assert high <= limit
            assert centred or low == 0 or high == limit
        else:
            assert centred
    image = np.random.default_rng(0).integers(1, 255, (height, width), dtype=np.uint8)
    pixels = cut(image, square)
    assert pixels.shape == (square.height, square.width)
    assert pixels.min() > 0  # no constant border
    patch = resize(pixels, 128)
    assert patch.shape == (128, 128)
    assert patch.dtype == np.uint8


def test_paper_geometry_by_hand():
    """A 200 x 100 mass at (1000, 2000): side 200 + 2 * 60 = 320, centred."""
    square = window(Box(1000, 2000, 1200, 2100), shape=(4000, 3000), margin=60, min_side=128)
    assert square == Box(940, 1890, 1260, 2210)
    small = window(Box(1000, 2000, 1010, 2010), shape=(4000, 3000), margin=60, min_side=128)
    assert small.width == 248


def test_padding_is_a_reflection():
    image = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    assert cut(image, Box(-1, 0, 3, 2)).tolist() == [[1, 1, 2, 3], [4, 4, 5, 6]]


def test_largest_blob_ignores_specks():
    mask = np.zeros((100, 100), np.uint8)
    mask[20:40, 30:60] = 1
    mask[90, 90] = 1
    box, outline = region_of_mask(mask, largest_blob=True)
    assert box == Box(30, 20, 60, 40)
    assert sorted(map(tuple, outline)) == [(30, 20), (30, 39), (59, 20), (59, 39)]
    assert region_of_mask(mask, largest_blob=False)[0] == Box(30, 20, 91, 91)
    with pytest.raises(ValueError, match="marks nothing"):
        region_of_mask(np.zeros((9, 9), np.uint8), largest_blob=True)


def test_closing_joins_what_a_scratch_parts():
    mask = np.zeros((100, 100), np.uint8)
    mask[20:40, 30:60] = 1
    mask[30] = 0  # one dark row
    assert region_of_mask(mask, largest_blob=True)[0] == Box(30, 20, 60, 40)
    mask[29:33] = 0  # four are two blobs
    assert region_of_mask(mask, largest_blob=True)[0] == Box(30, 20, 60, 29)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 0.6))
def test_largest_blob_agrees_with_the_whole_image(seed, share):
    """Only what is marked is looked at; the same steps over the whole image find the same box."""
    mask = (np.random.default_rng(seed).random((30, 40)) < share).astype(np.uint8)
    mask[0, 0] = 1
    padded = np.pad(mask, 5)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    x, y, width, height, area = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())]
    if (stats[1:, cv2.CC_STAT_AREA] == area).sum() == 1:
        expected = Box(x - 5, y - 5, x - 5 + width, y - 5 + height)
        assert region_of_mask(mask, largest_blob=True)[0] == expected


def test_region_of_outline():
    points = np.array([[3, 4], [10, 4], [10, 9]])
    assert region_of_outline(points, shape=(50, 50), must_fit=True)[0] == Box(3, 4, 11, 10)
    assert region_of_outline(points - (6, 0), shape=(50, 50), must_fit=False)[0] == Box(0, 4, 5, 10)
    for shift in (100, -8, 45):
        with pytest.raises(ValueError, match="outside"):
            region_of_outline(points + shift, shape=(50, 50), must_fit=False)
    with pytest.raises(ValueError, match="reaches outside"):
        region_of_outline(points - (5, 0), shape=(50, 50), must_fit=True)
