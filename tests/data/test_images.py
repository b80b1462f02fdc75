import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mammo_dp.data.cutting import Geometry, Task, cut_image
from mammo_dp.data.images import read_image, read_mask, to_uint8, why_unreadable
from mammo_dp.data.records import WholeImage

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
    with pytest.raises(ValueError, match=r"readable|empty|damaged TIFF"):
        eight_bit(tmp_path, data[: int(len(data) * kept)])


def tiff(array: np.ndarray, tags: dict[int, int] | None = None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "tiff", tiffinfo=tags or {}, **options)
    return file.getvalue()


def damaged_lzw() -> bytes:
    data = bytearray(tiff(RNG.integers(0, 256, (300, 300), dtype=np.uint8), compression="tiff_lzw"))
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    return bytes(data)


def several_frames() -> bytes:
    file = io.BytesIO()
    page = Image.fromarray(GREY)
    page.save(file, "png", save_all=True, append_images=[Image.fromarray(GREY[::-1].copy())])
    return file.getvalue()


def turned(form: str) -> bytes:
    """A file that says "turn me": viewers show it upright, and positions read off there would be wrong here."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(file, form, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (turned("jpeg"), "x.jpg", "says that it is turned"),
        (turned("tiff"), "x.tif", "says that it is turned"),
        (turned("png"), "x.png", "says that it is turned"),
        (tiff(GREY.astype(np.uint16) * 99, {262: 0}), "x.tif", "white as zero"),
        (damaged_lzw(), "x.tif", "damaged TIFF"),
        (several_frames(), "x.png", "several pages"),
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


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.uint32, np.float64])
def test_colours_of_any_type_are_read_or_refused(tmp_path, kind):
    """OpenCV reads some of these and converts few; whatever it does is no crash."""
    path = tmp_path / "x.tif"
    path.write_bytes(cv2.imencode(".tif", np.dstack([GREY] * 3).astype(kind))[1].tobytes())
    found = cut_image(Task(path, ((0, WholeImage()),), Geometry("contour", 60, 128, 128))).outcomes[0]
    assert isinstance(found, str)
    assert found.startswith(("published patch of 60x50", "not a readable image"))


def test_soft_masks_of_floats(tmp_path):
    assert np.array_equal(mask(tmp_path, PLANTED.astype(np.float32) * 0.9, (100, 80), ".tif")[0], PLANTED)


def test_a_crop_is_no_mask(tmp_path):
    """Pictures of bright lesions with sharp edges, which half of the range would divide as a mask does."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        crop = cv2.resize(
            rng.integers(10, 70, (12, 10), dtype=np.uint8), (200, 250), interpolation=cv2.INTER_LINEAR
        )
        lesion = cv2.ellipse(np.zeros_like(crop), (100, 120), (40, 55), 0, 0, 360, 255, -1) > 0
        texture = cv2.resize(rng.integers(130, 255, (30, 24), dtype=np.uint8), (200, 250))
        crop[lesion] = texture[lesion]
        with pytest.raises(ValueError, match="grey values"):
            mask(tmp_path, crop, (250, 200))


def test_a_map_of_probabilities_is_no_mask(tmp_path):
    chances = PLANTED.astype(np.float32) * 0.9
    chances[22:26, 12:16] = 1
    with pytest.raises(ValueError, match="several labels"):
        mask(tmp_path, chances, (100, 80), ".tif")


def test_no_reason_is_empty():
    for error in (MemoryError(), ValueError(), cv2.error(), OSError()):
        assert why_unreadable(error)
