"""Pixels of DICOM files as they are meant to be seen; the other side of each comparison is worked out by hand."""

import io
import re

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from mammo_dp.data import dicom, toy
from mammo_dp.data.images import read_image


def dataset(array: np.ndarray, **tags) -> Dataset:
    made = toy.secondary_capture(array, "Jane^Doe", "d", "1.2.3", "1.2.3.4", 1)
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def saved(made: Dataset) -> bytes:
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def eight_bit(tmp_path, made: Dataset) -> np.ndarray:
    path = tmp_path / "x.dcm"
    path.write_bytes(saved(made))
    image = read_image(path)
    return image.eight_bit(image.stored)


RAMP = np.array([[0, 1000, 2000, 3000, 4000]], np.uint16).repeat(5, 0)
FULL = [0, 64, 128, 191, 255]  # 1000 / 4000 of 255 is 63.75


def test_minimum_and_maximum_become_0_and_255(tmp_path):
    assert eight_bit(tmp_path, dataset(RAMP))[0].tolist() == FULL
    assert eight_bit(tmp_path, dataset(RAMP + 500))[0].tolist() == FULL


def test_monochrome1_is_inverted(tmp_path):
    made = dataset(RAMP, PhotometricInterpretation="MONOCHROME1")
    assert eight_bit(tmp_path, made)[0].tolist() == FULL[::-1]


def test_rescale(tmp_path):
    falling = dataset(RAMP, RescaleSlope="-2", RescaleIntercept="100")
    assert eight_bit(tmp_path, falling)[0].tolist() == FULL[::-1]


def test_window_clips(tmp_path):
    """Window of centre 2000 and width 2001: below 1000 black, above 3000 white (DICOM PS3.3, C.11.2.1.2)."""
    made = dataset(RAMP, WindowCenter="2000", WindowWidth="2001")
    assert eight_bit(tmp_path, made)[0].tolist() == [0, 0, 128, 255, 255]


def test_the_first_of_several_windows_is_used(tmp_path):
    made = dataset(RAMP, WindowCenter=["2000", "50"], WindowWidth=["2001", "10"])
    assert eight_bit(tmp_path, made)[0].tolist() == [0, 0, 128, 255, 255]


def test_voi_lut_goes_before_the_window(tmp_path):
    lut = Dataset()
    values = [v // 2 if v < 2000 else 4000 - v for v in range(4001)]
    lut.LUTDescriptor, lut.LUTData = [4001, 0, 16], np.array(values, np.uint16).tobytes()
    lut["LUTData"].VR = "OW"
    made = dataset(RAMP, WindowCenter="2000", WindowWidth="2001", VOILUTSequence=[lut])
    # 0, 500, 2000, 1000, 0: not monotonic, so that the extremes are those of the values that are there
    assert eight_bit(tmp_path, made)[0].tolist() == [0, 64, 255, 128, 0]


def test_signed_values(tmp_path):
    made = dataset((RAMP.astype(np.int32) - 2000).astype(np.int16), PixelRepresentation=1)
    assert eight_bit(tmp_path, made)[0].tolist() == FULL


def test_bits_that_are_not_stored_do_not_count(tmp_path):
    """Old files keep an overlay in the four bits above a 12-bit image."""
    assert eight_bit(tmp_path, dataset(RAMP | 0x8000, BitsStored=12, HighBit=11))[0].tolist() == FULL


def test_padding_is_no_grey_value(tmp_path):
    """Outside the image -32768, inside 1000 to 1400: without a rule, all tissue would be white."""
    array = (RAMP // 10 + 1000).astype(np.int16)
    array[0] = -32768
    made = dataset(array, PixelRepresentation=1)
    made.add_new("PixelPaddingValue", "SS", -32768)
    assert eight_bit(tmp_path, made)[1].tolist() == FULL
    assert eight_bit(tmp_path, made)[0].tolist() == [0] * 5


def test_big_endian_values(tmp_path):
    made = dataset(RAMP)
    made.PixelData = RAMP.astype(">u2").tobytes()
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = tmp_path / "x.dcm"
    pydicom.dcmwrite(path, made, implicit_vr=False, little_endian=False, enforce_file_format=True)
    image = read_image(path)
    assert image.stored.dtype.isnative
    assert image.eight_bit(image.stored)[0].tolist() == FULL


def test_baseline_jpeg(tmp_path):
    """8 bits, with the losses of JPEG."""
    smooth = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    made = dataset(smooth)
    made.PixelData = pydicom.encaps.encapsulate([cv2.imencode(".jpg", smooth)[1].tobytes()])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert np.abs(eight_bit(tmp_path, made).astype(int) - smooth * (255 / 252)).max() < 8


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_without_loss(tmp_path, syntax):
    array = np.random.default_rng(0).integers(0, 4096, (64, 80), dtype=np.uint16)
    plain = eight_bit(tmp_path, dataset(array, BitsStored=12, HighBit=11))
    made = dataset(array, BitsStored=12, HighBit=11)
    made.compress(syntax)
    assert np.array_equal(eight_bit(tmp_path, made), plain)


def compressed_as(syntax: pydicom.uid.UID) -> Dataset:
    """A file whose pixels nothing can decode."""
    made = dataset(RAMP, BitsStored=12, HighBit=11)
    made.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xc1" + bytes(40)])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = syntax
    return made


def nan_window() -> bytes:
    data = saved(dataset(RAMP, WindowCenter="1234567", WindowWidth="7654321"))
    return data.replace(b"1234567", b"NaN    ").replace(b"7654321", b"NaN    ")


def odd_header() -> bytes:
    """One byte of the VR of PhotometricInterpretation, and nobody can read it."""
    data = saved(dataset(RAMP))
    at = data.index(b"\x28\x00\x04\x00CS")
    return data[: at + 4] + b"CX" + data[at + 6 :]


DAMAGED = {
    "odd header": (odd_header(), "DICOM"),
    "not DICOM": (b"hello" * 100, "not a DICOM file"),
    "cut in the header": (saved(dataset(RAMP))[:200], "DICOM header"),
    "cut in the pixels": (saved(dataset(RAMP))[:-20], "damaged or truncated pixels"),
    "multi-frame": (saved(dataset(RAMP, NumberOfFrames=5, Rows=1)), "multi-frame DICOM (5 frames)"),
    "colour": (saved(dataset(RAMP, SamplesPerPixel=3, PhotometricInterpretation="RGB")), "colour"),
    "palette": (saved(dataset(RAMP, PhotometricInterpretation="PALETTE COLOR")), "colour"),
    "12-bit JPEG": (saved(compressed_as(JPEGExtended12Bit)), "JPEG Extended"),
    "lossless JPEG": (saved(compressed_as(JPEGLosslessSV1)), "python-gdcm"),
    "window of NaN": (nan_window(), "window"),
    "window without width": (saved(dataset(RAMP, WindowCenter="5", WindowWidth="0")), "window"),
    "rescale without end": (saved(dataset(RAMP, RescaleSlope="1e400", RescaleIntercept="0")), "numbers"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_a_reason_that_quotes_nothing(name):
    data, reason = DAMAGED[name]
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        dicom.displayed(*dicom.stored_values(io.BytesIO(data)))
    assert "Doe" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_header(tmp_path):
    path = tmp_path / "x.dcm"
    path.write_bytes(saved(dataset(RAMP)))
    header = dicom.read_header(path)
    assert header is not None
    assert (header.series, header.bits, header.rows, header.columns, header.description) == (
        "1.2.3.4",
        16,
        5,
        5,
        "d",
    )
    path.write_bytes(b"no DICOM file")
    assert dicom.read_header(path) is None
