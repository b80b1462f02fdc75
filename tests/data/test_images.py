import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from mammo_dp.data.images import read_image, read_mask, to_uint8, why_unreadable

RNG = np.random.default_rng(0)
GREY = cv2.GaussianBlur(RNG.integers(0, 256, (60, 50), dtype=np.uint8), (0, 0), 2)


def encoded(extension: str, array: np.ndarray) -> bytes:
    return cv2.imencode(extension, array)[1].tobytes()


def by_pillow(mode: str, form: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).convert(mode).save(file, form, **options)
    return file.getvalue()


def eight_bit(tmp_path, data: bytes, name="image.png") -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    image = read_image(tmp_path / name)
    return image.eight_bit(image.stored)


@pytest.mark.parametrize("extension", [".png", ".tif", ".pgm"])
def test_8_bit_images_stay_as_they_are(tmp_path, extension):
    assert np.array_equal(eight_bit(tmp_path, encoded(extension, GREY)), GREY)


@pytest.mark.parametrize("extension", [".png", ".tif", ".pgm"])
def test_16_bit_images_are_scaled_by_their_extremes(tmp_path, extension):
    """A 12-bit image in a 16-bit file is not left dark."""
    deep = GREY.astype(np.uint16) * 16 + 7
    expected = np.rint((GREY.astype(float) - GREY.min()) * 255 / (int(GREY.max()) - int(GREY.min())))
    assert np.abs(eight_bit(tmp_path, encoded(extension, deep)).astype(float) - expected).max() <= 1


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "tiff"), ("RGB", "png"), ("LA", "png"), ("P", "png")])
def test_colour_and_alpha_become_grey(tmp_path, mode, form):
    assert np.abs(eight_bit(tmp_path, by_pillow(mode, form), "x.tif").astype(int) - GREY).max() <= 1


def test_jpeg(tmp_path):
    data = cv2.imencode(".jpg", GREY, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    assert np.abs(eight_bit(tmp_path, data).astype(int) - GREY).max() <= 8


def several_pages() -> bytes:
    file = io.BytesIO()
    page = Image.fromarray(GREY)
    page.save(file, "tiff", save_all=True, append_images=[page])
    return file.getvalue()


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", ".pgm"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.98])
def test_a_file_cut_short_is_never_half_an_image(tmp_path, extension, kept):
    data = by_pillow("L", "tiff") if extension == ".tif" else encoded(extension, GREY)
    with pytest.raises(ValueError, match=r"readable|empty"):
        eight_bit(tmp_path, data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"text", "x.png", "not a readable image"),
        (b"text", "x.dcm", "not a DICOM file"),
        (several_pages(), "x.tif", "several pages"),
        (encoded(".tif", np.full((9, 9), np.nan, np.float32)), "x.tif", "not numbers"),
    ],
)
def test_unusable_images(tmp_path, data, name, reason):
    with pytest.raises(ValueError, match=reason):
        eight_bit(tmp_path, data, name)


def test_dicom_is_told_by_content_not_by_name(tmp_path):
    from tests.data.test_dicom import RAMP, dataset, saved

    assert eight_bit(tmp_path, saved(dataset(RAMP)), "IM0001")[0].tolist() == [0, 64, 128, 191, 255]


def test_to_uint8():
    assert to_uint8(np.array([[5, 10, 15]], np.uint16)).tolist() == [[0, 128, 255]]
    assert to_uint8(np.array([[-1.0, 1.0]])).tolist() == [[0, 255]]
    assert to_uint8(np.full((2, 2), 7)).tolist() == [[0, 0], [0, 0]]


def test_why_unreadable_names_no_path():
    error = PermissionError(13, "Permission denied", "/secret/x")
    assert why_unreadable(error) == "file cannot be read (Permission denied)"


# --- masks --------------------------------------------------------------------------------------------------------


def mask(tmp_path, array: np.ndarray, shape, extension=".png"):
    path = tmp_path / f"mask{extension}"
    path.write_bytes(encoded(extension, array))
    return read_mask(path, shape=shape)


PLANTED = np.zeros((100, 80), np.uint8)
PLANTED[20:50, 10:40] = 1


@pytest.mark.parametrize("top", [1, 2, 255])
def test_masks_of_any_two_values(tmp_path, top):
    marked, note = mask(tmp_path, PLANTED * top, (100, 80))
    assert np.array_equal(marked, PLANTED)
    assert note == ""


def test_masks_of_16_bits_and_of_soft_edges(tmp_path):
    assert np.array_equal(mask(tmp_path, PLANTED.astype(np.uint16) * 40_000, (100, 80))[0], PLANTED)
    soft = cv2.GaussianBlur(PLANTED * 255, (0, 0), 1)
    assert np.count_nonzero(mask(tmp_path, soft, (100, 80))[0] != PLANTED) <= 4  # the corners


def test_a_mask_of_zeros_stays_one_after_jpeg(tmp_path):
    dirty = RNG.integers(0, 9, (100, 80), dtype=np.uint8)
    with pytest.raises(ValueError, match="marks nothing"):
        mask(tmp_path, dirty, (100, 80), ".jpg")
    marked = mask(tmp_path, PLANTED * 255, (100, 80), ".jpg")[0]
    assert np.abs(marked.astype(int) - PLANTED).mean() < 0.01


def test_masks_of_another_size(tmp_path):
    large = cv2.resize(PLANTED, (160, 200), interpolation=cv2.INTER_NEAREST) * 255
    assert np.array_equal(mask(tmp_path, large, (100, 80))[0], PLANTED)
    with pytest.raises(ValueError, match="80x100 px does not lie on the image of 80x90"):
        mask(tmp_path, PLANTED, (90, 80))
    tall = np.zeros((1005, 800), np.uint8)
    tall[100:200, 100:200] = 1
    assert "0.5%" in mask(tmp_path, tall, (1000, 800))[1]


def test_pages_of_a_damaged_tiff_end():
    """A directory that points at itself must not be followed for ever."""
    from mammo_dp.data.images import _pages

    assert _pages(b"II*\0" + struct.pack("<IHI", 8, 0, 8)) == 1
