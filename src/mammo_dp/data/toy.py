"""Phantom studies, written as raw files in the official forms of CBIS-DDSM and BCDR.

A breast is a textured half ellipse; a benign mass is a smooth, slightly lobed disc, a malignant one carries spicules.
Both kinds have the same distribution of area and of mean brightness, so that only the shape tells them apart. The
external cohort is the same anatomy under another exposure. Nothing here is medical data or claims to look like it.
"""

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from mammo_dp.config.schema import Toy
from mammo_dp.engine.progress import track

CBIS_COLUMNS = [
    "patient_id",
    "breast_density",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "mass shape",
    "mass margins",
    "assessment",
    "pathology",
    "subtlety",
    "image file path",
    "cropped image file path",
    "ROI mask file path",
]
BCDR_COLUMNS = [
    "patient_id",
    "study_id",
    "series",
    "lesion_id",
    "segmentation_id",
    "image_view",
    "image_filename",
    "lw_x_points",
    "lw_y_points",
    "mammography_type",
    "mammography_nodule",
    "mammography_calcification",
    "mammography_microcalcification",
    "mammography_axillary_adenopathy",
    "mammography_architectural_distortion",
    "mammography_stroma_distortion",
    "age",
    "density",
    "classification",
]
BCDR_VIEWS = {
    ("R", "CC"): (1, "RCC"),
    ("L", "CC"): (2, "LCC"),
    ("R", "MLO"): (3, "RO"),
    ("L", "MLO"): (4, "LO"),
}
ANGLES = np.linspace(-np.pi, np.pi, 256, endpoint=False)


@dataclass(frozen=True)
class Mass:
    """`radii`: distance of the edge from the centre at each of ANGLES, px; `contrast`: mean added brightness."""

    number: int
    malignant: bool
    radii: np.ndarray
    contrast: float


@dataclass(frozen=True)
class View:
    """One phantom mammogram. `pixels`: (height, width) float in [0, 1]; each mass comes with its (x, y) centre."""

    name: str  # CC or MLO
    pixels: np.ndarray
    masses: list[tuple[Mass, tuple[float, float]]]


@dataclass(frozen=True)
class Study:
    patient: int
    laterality: str  # L or R
    density: int
    views: list[View]


def ensure(toy: Toy, folder: Path) -> None:
    """Write the phantom studies below `folder` (cbis-ddsm/ and bcdr/) unless they are there already.

    The folder appears whole or not at all; of several processes one writes and the others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        cohorts = (toy.train_patients, toy.test_patients)
        studies = [
            study for cohort, size in enumerate(cohorts) for study in _studies(toy, cohort=cohort, size=size)
        ]
        write_cbis(studies, partial / "cbis-ddsm", train_patients=toy.train_patients)
        write_bcdr(_studies(toy, cohort=2, size=toy.external_patients), partial / "bcdr")
        partial.rename(folder)


# --- drawing ----------------------------------------------------------------------------------------------------


def _studies(toy: Toy, *, cohort: int, size: int) -> Iterator[Study]:
    for index in track(range(size), ("toy training", "toy test", "toy external")[cohort]):
        rng = np.random.default_rng([toy.seed, cohort, index])
        # phantoms of another seed are other people, at least of the first thousand of a cohort
        number = 10_000 * cohort + 1_000 * (toy.seed % 10) + index + 1
        yield draw_study(rng, number, toy, second_mass=index % toy.second_mass_every == 0)


def draw_study(rng: np.random.Generator, patient: int, toy: Toy, *, second_mass: bool) -> Study:
    """One patient: the same mass in CC and MLO, and a second one in CC if asked for."""
    shape = (toy.height, toy.width)
    laterality = "L" if rng.random() < 0.5 else "R"
    density = int(rng.integers(1, 5))
    first = draw_mass(rng, number=1, malignant=bool(rng.random() < 0.5))
    views = []
    for name in ("CC", "MLO"):
        masses = [first]
        if name == "CC" and second_mass:
            masses.append(draw_mass(rng, number=2, malignant=bool(rng.random() < 0.5)))
        views.append(_draw_view(rng, name, shape, laterality, density, masses))
    return Study(patient, laterality, density, views)


def draw_mass(rng: np.random.Generator, *, number: int, malignant: bool) -> Mass:
    """A mass whose area and contrast do not depend on its class."""
    lobes = sum(
        rng.normal(0, 0.06) * np.cos(order * ANGLES + rng.uniform(0, 2 * np.pi)) for order in range(2, 6)
    )
    radii = 1 + lobes
    if malignant:
        for angle in rng.uniform(-np.pi, np.pi, rng.integers(6, 11)):
            distance = np.angle(np.exp(1j * (ANGLES - angle)))
            radii = radii + rng.uniform(0.1, 0.7) * np.exp(-0.5 * (distance / rng.uniform(0.09, 0.16)) ** 2)
    equal_area = rng.uniform(26, 50)  # px, radius of the disc of the same area
    radii = radii * equal_area / np.sqrt(np.mean(radii**2))
    return Mass(number, malignant, radii, contrast=rng.uniform(0.08, 0.2))


def _draw_view(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, int],
    laterality: str,
    density: int,
    masses: list[Mass],
) -> View:
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    inside = ((x / (0.92 * width)) ** 2 + ((y - height / 2) / (0.47 * height)) ** 2) < 1
    tissue = 0.28 + 0.03 * density + _noise(rng, shape, cells=(5, 9, 17, 33, 65), size=0.014)
    if name == "MLO":
        tissue = tissue + 0.18 * ((x / (0.45 * width) + y / (0.5 * height)) < 1)  # pectoral muscle
    pixels = np.where(inside, tissue, 0.02) + rng.normal(0, 0.006, shape)
    placed: list[tuple[Mass, tuple[float, float]]] = []
    for mass in masses:
        # the second mass keeps clear of the first: one above, one below the middle
        middle = height * (0.5 if len(masses) == 1 else (0.33, 0.67)[mass.number - 1])
        centre = (rng.uniform(0.3, 0.5) * width, middle + rng.uniform(-0.06, 0.06) * height)
        pixels = pixels + _mass_brightness(mass, centre, x, y)
        placed.append((mass, centre))
    if laterality == "R":  # the chest wall lies on the other side
        pixels = pixels[:, ::-1]
        placed = [
            (Mass(m.number, m.malignant, _mirrored(m.radii), m.contrast), (width - 1 - cx, cy))
            for m, (cx, cy) in placed
        ]
    return View(name, np.clip(pixels, 0, 1), placed)


def _mirrored(radii: np.ndarray) -> np.ndarray:
    """The edge after a horizontal flip: angle -> pi - angle. ANGLES[0] = -pi, so pi - angle is index n/2 - i."""
    return radii[(len(radii) // 2 - np.arange(len(radii))) % len(radii)]


def _mass_brightness(mass: Mass, centre: tuple[float, float], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What a mass adds to the image: a soft edge, mean `contrast` inside its outline."""
    dx, dy = x - centre[0], y - centre[1]
    edge = np.interp(np.arctan2(dy, dx), ANGLES, mass.radii, period=2 * np.pi)
    depth = edge - np.hypot(dx, dy)
    soft = 1 / (1 + np.exp(np.clip(-depth / 2.0, -30, 30)))
    return (mass.contrast / soft[depth > 0].mean()) * soft


def _noise(
    rng: np.random.Generator, shape: tuple[int, int], *, cells: tuple[int, ...], size: float
) -> np.ndarray:
    """Texture at several scales; `size` is the standard deviation at each."""
    height, width = shape
    layers = [rng.normal(0, size, (n, n)).astype(np.float32) for n in cells]
    return sum(cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) for layer in layers)  # type: ignore[return-value]


def outline(mass: Mass, centre: tuple[float, float]) -> np.ndarray:
    """(256, 2) whole-number polygon of x, y."""
    points = np.array(centre) + mass.radii[:, None] * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    return np.rint(points).astype(np.int32)


# --- the form of CBIS-DDSM --------------------------------------------------------------------------------------


def write_cbis(studies: list[Study], root: Path, *, train_patients: int) -> None:
    """Case lists and the classic tree: 16-bit mammograms and crops, 8-bit masks, crop and mask in either order."""
    for subset, title, cohort in (
        ("train", "Training", studies[:train_patients]),
        ("test", "Test", studies[train_patients:]),
    ):
        rows: list[dict[str, object]] = []
        for study in cohort:
            for view in study.views:
                rows += _write_view(study, view, root / "CBIS-DDSM", title=title)
        (root / f"mass_case_description_{subset}_set.csv").write_bytes(cbis_table(rows))


def cbis_table(rows: list[dict[str, object]]) -> bytes:
    """The official dialect: rows end CRLF, and the last path is quoted and ends with a bare LF."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CBIS_COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _write_view(study: Study, view: View, tree: Path, *, title: str) -> list[dict[str, object]]:
    patient = f"P_{study.patient:05d}"
    side = {"L": "LEFT", "R": "RIGHT"}[study.laterality]
    case = f"Mass-{title}_{patient}_{side}_{view.name}"
    stored = np.rint(view.pixels * 60_000).astype(np.uint16)
    image_path = write_series(tree, case, "full mammogram images", [stored])
    rows = []
    for mass, centre in view.masses:
        polygon = outline(mass, centre)
        mask = cv2.fillPoly(np.zeros(stored.shape, np.uint8), [polygon], 255)
        x, y, w, h = cv2.boundingRect(polygon)
        crop = stored[max(y, 0) : y + h, max(x, 0) : x + w]
        pair = [crop, mask] if (study.patient + mass.number) % 2 else [mask, crop]
        roi_path = write_series(tree, f"{case}_{mass.number}", "ROI mask images", pair)
        benign = "BENIGN" if study.patient % 5 else "BENIGN_WITHOUT_CALLBACK"
        values = (
            patient, study.density, side, view.name, mass.number, "mass",
            "IRREGULAR" if mass.malignant else "ROUND", "SPICULATED" if mass.malignant else "CIRCUMSCRIBED",
            5 if mass.malignant else 3, "MALIGNANT" if mass.malignant else benign, 4,
            f"{image_path}/000000.dcm", f"{roi_path}/000000.dcm", f"{roi_path}/000001.dcm\n",
        )  # fmt: skip
        rows.append(dict(zip(CBIS_COLUMNS, values, strict=True)))
    return rows


def write_series(tree: Path, case: str, description: str, images: list[np.ndarray]) -> str:
    """Write the files of a series as 1-1.dcm, 1-2.dcm, ... and return `<case>/<StudyUID>/<SeriesUID>`."""
    study_uid = generate_uid(entropy_srcs=[case, "study"])
    series_uid = generate_uid(entropy_srcs=[case, "series"])
    folder = tree / case / study_uid / series_uid
    folder.mkdir(parents=True)
    for number, image in enumerate(images, start=1):
        dataset = secondary_capture(image, case, description, study_uid, series_uid, number)
        dataset.save_as(folder / f"1-{number}.dcm", enforce_file_format=True)
    return f"{case}/{study_uid}/{series_uid}"


def secondary_capture(
    image: np.ndarray, case: str, description: str, study_uid: str, series_uid: str, number: int
) -> Dataset:
    """A Secondary Capture of modality MG, implicit VR, uncompressed, MONOCHROME2, unsigned, as CBIS-DDSM has it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[case, description, str(number)])
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.PatientName = dataset.PatientID = case
    dataset.Modality, dataset.SeriesDescription, dataset.InstanceNumber = "MG", description, 1
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    bits = 8 * image.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    data = np.ascontiguousarray(image).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW"
    return dataset


# --- the form of BCDR -------------------------------------------------------------------------------------------


def write_bcdr(studies: Iterator[Study], root: Path) -> None:
    """BCDR-D01_dataset/: outlines table with blanks around values, 8-bit TIFF images of another exposure."""
    folder = root / "BCDR-D01_dataset"
    rows: list[dict[str, object]] = []
    for study in studies:
        for series, view in enumerate(study.views, start=1):
            code, name = BCDR_VIEWS[study.laterality, view.name]
            place = Path(f"patient_{study.patient}") / "study_1"
            file = place / f"img_{study.patient}_1_{series}_{name}.tif"
            (folder / place).mkdir(parents=True, exist_ok=True)
            exposed = 0.08 + 0.85 * view.pixels**0.7  # brighter and flatter than the development cohort
            cv2.imwrite(str(folder / file), np.rint(255 * exposed).astype(np.uint8))
            for mass, centre in view.masses:
                points = outline(mass, centre)
                values = (
                    study.patient, 1, series, mass.number, 1, code, file.as_posix(),
                    " " + " ".join(map(str, points[:, 0])), " " + " ".join(map(str, points[:, 1])),
                    1, 1, 0, 0, 0, 0, 0, 50, study.density, " Malign " if mass.malignant else " Benign ",
                )  # fmt: skip
                rows.append(dict(zip(BCDR_COLUMNS, values, strict=True)))
    with (folder / "bcdr_d01_outlines.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, BCDR_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
