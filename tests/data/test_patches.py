import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_dp.data.patches import Box, box_of_mask, box_of_outline, cut, resize, window


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
    mask = np.zeros((100, 100), bool)
    mask[20:40, 30:60] = True
    mask[90, 90] = True
    assert box_of_mask(mask, largest_blob=True) == Box(30, 20, 60, 40)
    assert box_of_mask(mask, largest_blob=False) == Box(30, 20, 91, 91)
    with pytest.raises(ValueError, match="marks nothing"):
        box_of_mask(np.zeros((9, 9), bool), largest_blob=True)


def test_box_of_outline():
    points = np.array([[3, 4], [10, 4], [10, 9]])
    assert box_of_outline(points, shape=(50, 50)) == Box(3, 4, 11, 10)
    with pytest.raises(ValueError, match="outside"):
        box_of_outline(points + 100, shape=(50, 50))
