"""The whole stage: damage, kills, confidentiality, copies, and what it tells."""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGExtended12Bit, JPEGLosslessSV1

from mammo_dp import cli
from mammo_dp.data.images import read_image
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.stages import node_of
from mammo_dp.stages.extract_patches import work as extract_patches
from tests.conftest import Workplace, config_of
from tests.data.readers.test_bcdr import subset
from tests.data.readers.test_release import published
from tests.data.test_dicom import compressed_as, dataset, nan_window, saved

STAGE = "stage=extract_patches"
RNG = np.random.default_rng(0)


def texture(shape=(300, 260)) -> np.ndarray:
    return cv2.resize(
        RNG.integers(0, 256, (30, 26), dtype=np.uint8), shape[::-1], interpolation=cv2.INTER_LINEAR
    )


def encoded(array: np.ndarray, extension=".png") -> bytes:
    return cv2.imencode(extension, array)[1].tobytes()


def only_folder(place: Workplace) -> Path:
    (folder,) = place.folders("extract_patches")
    return folder


# --- damage -------------------------------------------------------------------------------------------------------

IMAGE = texture()
MASK = np.zeros(IMAGE.shape, np.uint8)
MASK[100:150, 80:140] = 255
DEEP = IMAGE.astype(np.uint16) * 16


def damaged_jpeg_2000() -> bytes:
    made = dataset(DEEP, BitsStored=12, HighBit=11)
    made.compress(JPEG2000Lossless)
    data = saved(made)
    start = data.index(b"\xff\x4f\xff\x51") + 2  # of the image's code
    return data[:start] + bytes(400) + data[start + 400 :]


def without_pixels() -> bytes:
    made = dataset(DEEP)
    del made.PixelData
    return saved(made)


def two_pages() -> bytes:
    import io

    from PIL import Image

    file, page = io.BytesIO(), Image.fromarray(IMAGE)
    page.save(file, "tiff", save_all=True, append_images=[page])
    return file.getvalue()


BOX = ",80 100 140 150"
# name: (image's file name, its bytes, rest of the row after the patient, reason)
FILES: dict[str, tuple[str, bytes | None, str]] = {
    "DICOM cut in the pixels": ("a.dcm", saved(dataset(DEEP))[:-1000], "damaged or truncated pixels"),
    "DICOM cut in the header": ("a.dcm", saved(dataset(DEEP))[:300], "DICOM"),
    "DICOM without pixels": ("a.dcm", without_pixels(), "without pixels"),
    "empty DICOM": ("a.dcm", b"", "empty file"),
    "empty PNG": ("a.png", b"", "empty file"),
    "text named .dcm": ("a.dcm", b"patient: Anna" * 50, "not a DICOM file"),
    "text named .png": ("a.png", b"patient: Anna" * 50, "not a readable image"),
    "window of NaN": ("a.dcm", nan_window(), "window"),
    "window without width": ("a.dcm", saved(dataset(DEEP, WindowCenter="9", WindowWidth="0")), "window"),
    "several frames": ("a.dcm", saved(dataset(DEEP, NumberOfFrames=2)), "multi-frame DICOM (2 frames)"),
    "colour DICOM": (
        "a.dcm", saved(dataset(DEEP, SamplesPerPixel=3, PhotometricInterpretation="RGB")), "colour DICOM",
    ),
    "12-bit JPEG Extended": ("a.dcm", saved(compressed_as(JPEGExtended12Bit)), "JPEG Extended"),
    "lossless JPEG": ("a.dcm", saved(compressed_as(JPEGLosslessSV1)), "no decoder is installed"),
    "damaged JPEG 2000": ("a.dcm", damaged_jpeg_2000(), "JPEG 2000"),
    "JPEG cut short": ("a.jpg", encoded(IMAGE, ".jpg")[:-900], "cut short"),
    "PNG cut short": ("a.png", encoded(IMAGE)[:-900], "cut short"),
    "TIFF cut short": ("a.tif", encoded(IMAGE, ".tif")[:-900], "cut short"),
    "PGM cut short": ("a.pgm", encoded(IMAGE, ".pgm")[:-900], "cut short"),
    "TIFF of two pages": ("a.tif", two_pages(), "several pages"),
    "TIFF of NaN": ("a.tif", encoded(np.full(IMAGE.shape, np.nan, np.float32), ".tif"), "not numbers"),
    "image of zeros": ("a.png", encoded(np.zeros(IMAGE.shape, np.uint8)), "single grey value"),
    "no image": ("a.png", None, "image file is missing"),
}  # fmt: skip
MASKS: dict[str, tuple[bytes | None, str]] = {
    "mask of zeros": (encoded(np.zeros(IMAGE.shape, np.uint8)), "marks nothing"),
    "mask on another grid": (encoded(MASK[:, :200]), "does not lie on the image"),
    "inverted mask": (encoded(255 - MASK), "inverted"),
    "image as a mask": (encoded(IMAGE), "not a mask"),
    "mask of two labels": (encoded(np.where(MASK > 0, np.uint8(1), MASK[::-1] // 100)), "several labels"),
    "empty mask": (b"", "empty file"),
    "mask cut short": (encoded(MASK)[:-40], "cut short"),
    "no mask": (None, "mask file is missing"),
}
ROWS: dict[str, tuple[str, str]] = {
    "no patient": (",benign,,1 1 50 50", "patient_id is empty"),
    "no label": ("P9,,,1 1 50 50", "label is empty"),
    "negative box": ("P9,benign,,-5 1 50 50", "negative coordinate"),
    "box outside": ("P9,benign,,900 900 950 950", "outside the image"),
    "box turned": ("P9,benign,,50 50 1 1", "without an extent"),
    "box of words": ("P9,benign,,left of the nipple", "not a number"),
    "box of NaN": ("P9,benign,,nan 1 50 50", "no pixel position"),
    "no region": ("P9,benign", "0 of mask"),
    "two regions": ("P9,benign,mask.png,1 1 50 50", "2 of mask"),
    "view unknown": ("P9,benign,,1 1 50 50,sideways", "view is none"),
    "split unknown": ("P9,benign,,1 1 50 50,,holdout", "split is not"),
    "too many values": ("P9,benign,,1 1 50 50,,,,9", "more values than columns"),
    "repeated": ("P0,benign,,80 100 140 150", "repeats row 2"),
    "one label": ("P0,malignant,,81 100 140 150", "with another label"),
    "the other": ("P0,benign,,81 100 140 150", "with another label"),
}


def damaged_table(folder: Path) -> dict[int, tuple[str, str]]:
    """masses.csv: row 2 and every third row are sound; each other has one damage. row -> (name, reason)."""
    lines, expected = ["image,patient_id,label,mask,box,view,split"], {}
    (folder / "good.png").write_bytes(encoded(IMAGE))
    (folder / "mask.png").write_bytes(encoded(MASK))
    lines.append("good.png,P0,benign,,80 100 140 150")
    damages: list[tuple[str, str, str]] = []
    for number, (name, (file, data, reason)) in enumerate(FILES.items()):
        path = folder / f"f{number}_{file}"
        if data is not None:
            path.write_bytes(data)
        damages.append((name, f"{path.name},P{number},benign,{BOX}", reason))
    for number, (name, (data, reason)) in enumerate(MASKS.items()):
        path = folder / f"m{number}.png"
        if data is not None:
            path.write_bytes(data)
        damages.append((name, f"good.png,P{number},benign,{path.name}", reason))
    damages += [(name, f"good.png,{cells}", reason) for name, (cells, reason) in ROWS.items()]
    os.symlink("loop.png", folder / "loop.png")
    damages.append(("link to itself", f"loop.png,P1,benign,{BOX}", "image file is missing"))
    (folder / "a folder.png").mkdir()
    damages.append(("folder", f"a folder.png,P1,benign,{BOX}", "image file is missing"))
    (folder / "locked.png").write_bytes(encoded(IMAGE))
    damages.append(
        ("no permission", f"locked.png,P1,benign,{BOX}", "file cannot be read (Permission denied)")
    )
    for number, (name, row, reason) in enumerate(damages):
        lines.append(row)
        expected[len(lines)] = (name, reason)
        lines.append(f"good.png,P{number},malignant,,{10 + number} 20 {80 + number} 70")
    (folder / "masses.csv").write_text("\n".join(lines) + "\n")
    return expected


def test_fifty_damaged_inputs(place, monkeypatch):
    """Each ends as one line in skipped.csv; none stops the others, none gives a wrong patch in silence."""
    folder = place.root / "raw"
    folder.mkdir()
    expected = damaged_table(folder)
    assert len(expected) >= 40

    def open_file(path: Path, *arguments, opened=Path.open, **options):
        if path.name == "locked.png":  # tests may run as root, who may read anything
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_file)
    words = ("dataset=custom", f"dataset.root={folder}", f"outputs={place.outputs}", "runtime.workers=1")
    assert place.run(STAGE, *words, "dataset.max_skipped=1.0") == cli.DONE
    skipped = pd.read_csv(only_folder(place) / "skipped.csv")
    assert list(skipped.columns) == ["source", "row", "reason", "on_purpose"]
    found = dict(zip(skipped["row"], skipped["reason"], strict=True))
    for number, (name, reason) in expected.items():
        assert reason in found.pop(f"row {number}"), name
    assert found == {}
    patches = PatchSet.load(node_of(config_of(*words), "extract_patches").artifact())
    assert len(patches) == 1 + len(expected)  # every sound row
    assert not any("Anna" in reason for reason in skipped["reason"])
    # the same rows alone give the same patches
    table = (folder / "masses.csv").read_text().splitlines()
    sound = [line for number, line in enumerate(table, start=1) if number not in expected]
    (folder / "masses.csv").write_text("\n".join(sound) + "\n")
    assert place.run(STAGE, *words) == cli.DONE
    alone = PatchSet.load(node_of(config_of(*words), "extract_patches").artifact())
    assert np.array_equal(alone.images, patches.images)
    assert alone.index["source_sha256"].tolist() == patches.index["source_sha256"].tolist()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no rows"),
        (b"image,patient_id\na.png,1\n", "has no column label"),
        (b'image,patient_id,label,box\na.png,1,benign,"1 1 9 9\n', "correct the quotation marks"),
        (b"PK\3\4\0\0\0\0", "is not a text file"),
        (
            b"image,patient_id,label,box,split\na.png,1,benign,1 1 9 9,train\na.png,1,benign,2 2 9 9,test\n",
            "one patient",
        ),
        (b"image,patient_id,label,box\nb.png,1,benign,1 1 9 9\n", "too many rows without a patch"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(place, content, sentence):
    folder = place.root / "raw"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(IMAGE))
    if content is not None:
        (folder / "masses.csv").write_bytes(content)
    code = place.run(STAGE, "dataset=custom", f"dataset.root={folder}", f"outputs={place.outputs}")
    assert code in (cli.REFUSED, cli.FAILED)
    told = place.said()[1]
    assert sentence in told
    assert told.count("\n") == 1
    assert str(folder) not in told


def test_damage_in_the_official_forms(place, monkeypatch):
    """Folders nobody may enter, links in a circle, a damaged header: the other rows give their patches."""
    for link in (place.root / "toy").glob("[!.]*"):  # raw data of its own, since it is damaged below
        shared = link.resolve()
        link.unlink()
        shutil.copytree(shared, link)
    assert place.run(STAGE, *place.small) == cli.DONE
    clean = PatchSet.load(node_of(config_of(*place.small), "extract_patches").artifact())
    (tree,) = (place.root / "toy").glob("*/cbis-ddsm/CBIS-DDSM")
    os.symlink(tree, tree / "circle")
    os.symlink("self", tree / "self")
    image = next(tree.glob("*_CC/*/*/1-1.dcm"))
    image.write_bytes(image.read_bytes()[:150])
    locked = next(folder for folder in sorted(tree.glob("*_MLO_1")))
    sources = place.root / "raw"
    os.rename(tree.parents[1], sources)
    scan = os.scandir

    def scandir(folder):
        if Path(folder).name == locked.name:  # tests may run as root, who may enter anything
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    words = (
        "dataset=cbis_bcdr", f"dataset.root={sources}", "dataset.split=official", f"outputs={place.outputs}",
        "dataset.max_skipped=0.2",
    )  # fmt: skip
    assert place.run(STAGE, *words) == cli.DONE
    damaged = PatchSet.load(node_of(config_of(*words), "extract_patches").artifact())
    kept = set(damaged.index["source_sha256"])
    assert kept < set(clean.index["source_sha256"])
    (folder,) = [folder for folder in place.folders("extract_patches") if "cbis_bcdr" in folder.name]
    skipped = pd.read_csv(folder / "skipped.csv")
    assert len(clean) - len(damaged) == len(skipped) - 1  # and one line for the folder
    assert f"folder {locked.name}" in set(skipped["row"])
    assert {"damaged DICOM header", "folder cannot be read"} <= set(skipped["reason"]) or len(skipped) >= 3


# --- confidentiality ----------------------------------------------------------------------------------------------

PLANTED = ("zwetschge", "19551231", "zm-4711", "apricot")  # name, birth date, patient id, folder


def confidential_table(root: Path) -> Path:
    """Names in every place that can hold one: tags, folders, files, ids of lesions, damaged files."""
    folder = root / "Apricot clinic"
    (folder / "Zwetschge").mkdir(parents=True)
    lines = ["image;patient_id;label;mask;box;lesion_id;split"]
    for number in range(48):
        name = f"Zwetschge/Zwetschge_Maria_{number}_19551231"
        made = dataset(texture().astype(np.uint16) * 200)
        made.PatientName, made.PatientID, made.PatientBirthDate = (
            "Zwetschge^Maria",
            f"ZM-4711-{number}",
            "19551231",
        )
        (folder / f"{name}.dcm").write_bytes(saved(made))
        (folder / f"{name}_mask.png").write_bytes(
            encoded(MASK if number % 2 else 255 - MASK if number == 2 else MASK)
        )
        label = ("benign", "malignant")[number // 2 % 2]
        split = ("train", "train", "val", "test")[number // 4 % 4]
        lines.append(f"{name}.dcm;ZM-4711-{number};{label};{name}_mask.png;;Zwetschge-{number};{split}")
    (folder / "Zwetschge/broken_19551231.dcm").write_bytes(b"Zwetschge^Maria" * 30)
    lines.append("Zwetschge/broken_19551231.dcm;ZM-4711-0;benign;;1 1 9 9;;")
    lines.append("Zwetschge/none_19551231.dcm;ZM-4711-0;benign;;1 1 9 9;;")
    lines.append("Zwetschge/broken_19551231.dcm;ZM-4711-0;Zwetschge;;1 1 9 9;;")
    (folder / "Zwetschge.csv").write_text("\n".join(lines) + "\n")
    return folder


def leaked(outputs: Path) -> list[str]:
    found = []
    for path in [outputs, *outputs.rglob("*")]:
        content = path.read_bytes().lower() if path.is_file() else b""
        name = path.relative_to(outputs.parent).as_posix().lower()
        found += [f"{name}: {word}" for word in PLANTED if word in name or word.encode() in content]
    return found


def test_nothing_under_outputs_names_a_patient(place, monkeypatch):
    folder = confidential_table(place.root)
    words = [
        "dataset=custom", f"dataset.root='{folder}'", "dataset.table=Zwetschge.csv", f"outputs={place.outputs}",
        "dataset.max_skipped=0.5", "classifier=swin_micro", "recipe=dp_gd", "privacy.public_count=24",
        "privacy.delta=0.01", "dataset.population=a study",
    ]  # fmt: skip
    # a failure of ours in mid-run, whose message quotes a name, and one of a library's
    for planted in (
        KeyError("Zwetschge^Maria"),
        ValueError(f"cannot open {folder}/Zwetschge/Zwetschge_Maria_1.dcm"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(
                extract_patches, "data_card", lambda *a, error=planted, **k: (_ for _ in ()).throw(error)
            )
            assert place.run(STAGE, *words) == cli.FAILED
        assert "extract_patches.py" in (only_folder(place) / "error.txt").read_text()  # still of use
        assert leaked(place.outputs) == []
    assert place.run(STAGE, *words, "dataset.max_skipped=0.0") == cli.FAILED
    assert leaked(place.outputs) == []
    assert place.run("stage=train_classifier", "build_inputs=true", *words) == cli.DONE
    assert place.run("stage=report", *words) == cli.DONE
    assert leaked(place.outputs) == []
    assert not any(word in place.said()[0].lower() for word in PLANTED)

    pseudonyms = folder / "pseudonyms.csv"
    assert stat.S_IMODE(pseudonyms.stat().st_mode) == 0o600
    mapping = pd.read_csv(pseudonyms).set_index("patient_id")["pseudonym"]
    index = pd.read_csv(only_folder(place) / "index.csv")
    assert set(index["patient"]) <= set(mapping)
    assert leaked(folder)  # the control: the search does find


@pytest.mark.parametrize("written", ["Zwetschge\\, Maria", "${oc.env:PLANTED}/Zwetschge\\, Maria"])
def test_a_root_that_is_written_in_another_way_is_not_kept(place, monkeypatch, written):
    """Hydra takes escapes and the environment, so the word that was typed is not the path."""
    folder = place.root / "Zwetschge, Maria"
    folder.mkdir()
    (folder / "masses.csv").write_text("image,patient_id,label,box\nnone.png,1,benign,1 1 9 9\n")
    monkeypatch.setenv("PLANTED", str(place.root))
    monkeypatch.chdir(place.root)
    assert (
        place.run(STAGE, "dataset=custom", f"dataset.root={written}", f"outputs={place.outputs}")
        == cli.FAILED
    )
    assert (only_folder(place) / "error.txt").is_file()
    assert leaked(place.outputs) == []


def test_one_patient_in_two_tables_is_in_one_split(place):
    for name, split in (("a", "train"), ("b", "test")):
        folder = place.root / "raw" / name
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(encoded(IMAGE))
        (folder / "masses.csv").write_text(
            f"image,patient_id,label,box,split\na.png,1,benign,1 1 90 90,{split}\n"
        )
    words = (
        STAGE, "dataset=custom", f"dataset.root={place.root}/raw", "dataset.sources.custom.root=a",
        "+dataset.sources.second={reader:custom,root:b,role:external}", f"outputs={place.outputs}",
        f"dataset.pseudonyms={place.root}/p.csv",
    )  # fmt: skip
    assert place.run(*words) == cli.FAILED
    assert "put one patient into train and test" in place.said()[1]


def test_a_mass_and_a_calcification_in_one_place_are_no_copies(place):
    films = texture()
    row = {"lw_x_points": "80 140 140 80", "lw_y_points": "100 100 150 150", "image_filename": "film.tif"}
    calc = row | {"mammography_nodule": "0", "mammography_calcification": "1", "classification": "Benign"}
    subset(place.root / "raw/bcdr", "D01", row, calc)
    cv2.imwrite(str(place.root / "raw/bcdr/BCDR-D01_dataset/film.tif"), films)
    words = (
        *ONLY_BCDR,
        f"dataset.root={place.root}/raw",
        f"outputs={place.outputs}",
        "dataset.abnormality=all",
    )
    assert place.run(STAGE, *words, "dataset.duplicates=drop_conflicts") == cli.DONE
    assert len(pd.read_csv(only_folder(place) / "index.csv")) == 2


def test_pseudonyms_never_lie_below_outputs(place):
    folder = place.root / "raw"
    folder.mkdir()
    (folder / "masses.csv").write_text("image,patient_id,label,box\na.png,1,benign,1 1 9 9\n")
    words = (STAGE, "dataset=custom", f"outputs={place.outputs}")
    assert (
        place.run(*words, f"dataset.root={folder}", f"dataset.pseudonyms={place.outputs}/p.csv")
        == cli.REFUSED
    )
    assert "below outputs/" in place.said()[1]
    assert (
        place.run(*words, f"dataset.root={folder}", f"dataset.pseudonyms={place.root}/none/p.csv")
        == cli.REFUSED
    )
    assert "cannot be written; set dataset.pseudonyms=FILE" in place.said()[1]
    assert not place.folders("extract_patches")


# --- kills --------------------------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact, its manifest without the times."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    manifest = json.loads(files.pop("manifest.json"))
    del manifest["timings"]
    return files | {"manifest.json": json.dumps(manifest, sort_keys=True).encode()}


def test_ten_kills_leave_the_same_artifact(place):
    """kill -9 at ten random moments, then a finish: byte for byte what an uninterrupted run makes."""
    words = [
        "dataset=toy", "dataset.toy.train_patients=40", "dataset.toy.test_patients=8",
        "dataset.toy.external_patients=8", f"dataset.root={place.root}/toy", "runtime.workers=2",
        f"outputs={place.outputs}",
    ]  # fmt: skip
    assert place.run(STAGE, *words) == cli.DONE
    killed = only_folder(place)
    place.outputs.rename(place.root / "whole")
    whole = place.root / "whole/extract_patches" / killed.name
    images = pd.read_csv(whole / "index.csv")["image"].nunique()
    rng = random.Random(0)
    moments = sorted(rng.sample(range(1, images * 2 // 3), 6))  # images done
    progress = []
    for attempt in range(10):
        run = subprocess.Popen(
            [sys.executable, "-m", "mammo_dp", STAGE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        if attempt % 3:  # most kills fall into the work itself, the others into the start
            moment = moments.pop(0)
            while run.poll() is None and lines(killed) < moment:
                time.sleep(0.002)
        else:
            time.sleep(rng.uniform(0, 1))
        run.send_signal(signal.SIGKILL)
        run.wait()
        progress.append(lines(killed))
    assert progress == sorted(progress)  # what was done stayed done
    assert len(set(progress)) > 4  # kills at several stages of the work
    assert not (killed / "manifest.json").exists()
    assert place.run(STAGE, *words) == cli.DONE
    assert content(killed) == content(whole)
    assert not (killed / "done.jsonl").exists()


def lines(folder: Path) -> int:
    journal = folder / "done.jsonl"
    return journal.read_text().count("\n") if journal.exists() else 0


# --- copies -------------------------------------------------------------------------------------------------------

ONLY_BCDR = ("dataset=cbis_bcdr", "~dataset.sources.cbis_ddsm")


def overlapping_subsets(root: Path) -> Path:
    """Film 1 in F01 and F02 with one label; film 2 in both with opposite labels; film 3 once, by two readers."""
    films = [texture() for _ in range(3)]
    far = {"lw_x_points": "180 200 200 180", "lw_y_points": "180 180 200 200", "lesion_id": "7"}
    near = {"lw_x_points": "81 141 141 81", "lw_y_points": "101 101 151 151", "segmentation_id": "2"}
    rows: dict[str, list[dict[str, str]]] = {"F01": [], "F02": []}
    for name in rows:
        for number, film in enumerate(films[: 3 if name == "F01" else 2]):
            label = "Malign" if (name, number) == ("F02", 1) else "Benign"
            row = {
                "patient_id": str(number), "image_filename": f"film_{number}.tif", "classification": label,
                "lw_x_points": "80 140 140 80", "lw_y_points": "100 100 150 150",
            }  # fmt: skip
            rows[name].append(row)
            if number == 2:
                rows[name] += [row | near, row | far]
            (root / f"bcdr/BCDR-{name}_dataset").mkdir(parents=True, exist_ok=True)
            # F02 is stored at another depth
            stored = film if name == "F01" else film.astype(np.uint16) * 100
            cv2.imwrite(str(root / f"bcdr/BCDR-{name}_dataset/film_{number}.tif"), stored)
        subset(root / "bcdr", name, *rows[name])
    return root


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("keep", [0, 0, 0, 0, 0, 0, 1]), ("drop", [0, 0, 0, 0]), ("drop_conflicts", [0, 0, 0])],
)
def test_copies_in_the_test_set(place, policy, kept):
    raw = overlapping_subsets(place.root / "raw")
    words = (*ONLY_BCDR, f"dataset.root={raw}", f"outputs={place.outputs}", f"dataset.duplicates={policy}")
    assert place.run(STAGE, *words) == cli.DONE
    folder = only_folder(place)
    index = pd.read_csv(folder / "index.csv")
    assert sorted(index["malignant"]) == kept
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["copies"] == {"clusters": 3, "contradictory": 1, "across_splits": 0}
    assert sum(metrics["left_out"].values()) == 7 - len(kept)
    assert metrics["skipped"] == {}  # copies are no faults
    assert len(list(folder.glob("bcdr/*/*/*.png"))) == len(kept)
    card = (folder / "data_card.md").read_text()
    assert "Clusters of copies: 3,\nwith both labels: 1" in card
    assert "(contradictory)" in card


@pytest.mark.parametrize("policy", ["drop", "drop_conflicts"])
def test_copies_in_training_data_are_told_and_stay(place, policy):
    """Whether a patch stays must not depend on another one."""
    folder = place.root / "raw"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(IMAGE))
    (folder / "b.png").write_bytes(encoded(IMAGE))
    rows = [
        "a.png,P1,benign,80 100 140 150,train",
        "b.png,P1,malignant,82 100 142 150,train",
        "b.png,P2,benign,80 100 140 150,test",
    ]
    (folder / "masses.csv").write_text("\n".join(["image,patient_id,label,box,split", *rows]) + "\n")
    words = (
        "dataset=custom",
        f"dataset.root={folder}",
        f"outputs={place.outputs}",
        f"dataset.duplicates={policy}",
    )
    assert place.run(STAGE, *words) == cli.DONE
    index = pd.read_csv(only_folder(place) / "index.csv")
    assert index["split"].tolist() == ["train", "train", "test"]
    told = json.loads((only_folder(place) / "metrics.json").read_text())["copies"]
    assert told == {"clusters": 1, "contradictory": 1, "across_splits": 1}
    assert "(leak)" in (only_folder(place) / "data_card.md").read_text()


def test_a_file_of_two_patients_and_a_lesion_of_two_labels_are_told(place):
    folder = place.root / "raw"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(IMAGE))
    (folder / "b.png").write_bytes(encoded(texture()))
    rows = [
        "a.png,P1,benign,80 100 140 150,train,", "a.png,P2,benign,10 10 40 50,test,",
        "b.png,P3,benign,80 100 140 150,train,left", "b.png,P3,malignant,10 10 40 50,train,left",
        "b.png,P4,malignant,10 10 13 13,test,",
    ]  # fmt: skip
    (folder / "masses.csv").write_text(
        "\n".join(["image,patient_id,label,box,split,lesion_id", *rows]) + "\n"
    )
    assert (
        place.run(STAGE, "dataset=custom", f"dataset.root={folder}", f"outputs={place.outputs}") == cli.DONE
    )
    told, card = place.said()[0], (only_folder(place) / "data_card.md").read_text()
    assert "8 notes in data_card.md" in told
    assert (
        "| custom | the same image file belongs to two patients | 5 | row 2, row 3, row 4, row 5, row 6 |"
        in card
    )
    assert "| custom | rows of one lesion with different labels | 2 | row 4, row 5 |" in card
    assert "| custom | lesion smaller than 5 px, or larger than half of the image | 1 | row 6 |" in card


# --- what it refuses and tells ------------------------------------------------------------------------------------


def test_unreadable_patches_are_rows_up_to_a_limit(place):
    root = place.root / "release/cbis-ddsm"
    for number in range(30):
        name = f"patientcbis-ddsm__P_{number:05d}_image1_mass1_is_benign_1.png"
        published(root, name=name, content=b"not a picture" if number == 4 else None)
    words = (STAGE, "dataset=release", f"dataset.root={root.parent}", f"outputs={place.outputs}")
    assert place.run(*words) == cli.DONE
    assert "30" not in place.said()[0].split("patches")[0]
    skipped = pd.read_csv(only_folder(place) / "skipped.csv")
    assert len(skipped) == 1
    assert "P_00004" in skipped["row"][0]
    assert len(pd.read_csv(only_folder(place) / "index.csv")) == 29

    published(root, name="patientcbis-ddsm__P_00005_image1_mass1_is_benign_1.png", content=b"")
    assert place.run(*words) == cli.FAILED  # 2 of 30 is more than dataset.max_skipped
    told = place.said()[1]
    assert "2 skipped: 1 x not a readable image" in told
    assert "dataset.max_skipped" in told
    assert place.run(*words, "dataset.max_skipped=0.1") == cli.DONE


def test_a_leak_in_the_folders_of_the_release(place):
    root = place.root / "release/cbis-ddsm"
    published(root, "train")
    published(root, "test", benign=False)
    words = (STAGE, "dataset=release", f"dataset.root={root.parent}", f"outputs={place.outputs}")
    assert place.run(*words) == cli.FAILED
    assert "put one patient into train and test" in place.said()[1]


def test_a_full_disk_is_told_before_the_work_and_in_it(place, monkeypatch):
    full = type("Usage", (), {"free": 10 * 2**20})()
    with monkeypatch.context() as patch:
        patch.setattr(extract_patches.shutil, "disk_usage", lambda folder: full)
        assert place.run(STAGE, *place.small) == cli.FAILED
    assert "has 10 MB free" in place.said()[1]
    from mammo_dp.data import journal

    def no_room(path, png):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_png", no_room)
        assert place.run(STAGE, *place.small) == cli.FAILED
    assert "the disk is full; free some space and run the same command again" in place.said()[1]
    assert place.run(STAGE, *place.small) == cli.DONE


def test_the_papers_split_is_of_its_own_patients(place):
    folder = place.root / "raw"
    folder.mkdir()
    (folder / "masses.csv").write_text("image,patient_id,label,box\na.png,1,benign,1 1 9 9\n")
    words = (
        STAGE,
        "dataset=custom",
        f"dataset.root={folder}",
        f"outputs={place.outputs}",
        "dataset.split=paper",
    )
    assert place.run(*words) == cli.REFUSED
    assert "use dataset.split=official" in place.said()[1]


@pytest.mark.parametrize("root", [".", "raw"])
def test_a_relative_root(place, monkeypatch, root):
    raw = place.root / root
    published(raw / "cbis-ddsm")
    monkeypatch.chdir(place.root)
    assert place.run(STAGE, "dataset=release", f"dataset.root={root}", f"outputs={place.outputs}") == cli.DONE


def test_the_published_patches_are_masses_in_the_papers_split(place):
    published(place.root / "release/cbis-ddsm")
    words = (STAGE, "dataset=release", f"dataset.root={place.root}/release", f"outputs={place.outputs}")
    for word in ("dataset.split=official", "dataset.abnormality=calc"):
        assert place.run(*words, word, "dataset.val_fraction=0.1") == cli.REFUSED


def test_toy_from_raw_files_to_its_card(small):
    """Patches are brighter in the middle than at the rim, for both forms; the card and the sheet tell what is there."""
    artifact = node_of(config_of(*small.small), "extract_patches").artifact()
    patches = PatchSet.load(artifact)
    assert len(patches.rows("test", "toy_bcdr")) == 6 * 2 + 2
    assert len(patches.index[patches.index["source"] == "toy_cbis"]) == (16 + 8) * 2 + 4 + 2
    for source in ("toy_cbis", "toy_bcdr"):
        images = patches.images[patches.index["source"] == source].astype(float)
        rim = np.concatenate([images[:, :12].ravel(), images[:, -12:].ravel()])
        assert images[:, 52:76, 52:76].mean() > rim.mean() + 5
    card = artifact.path("data_card.md").read_text()
    for (source, split), rows in patches.index.groupby(["source", "split"]):
        benign = int((rows["malignant"] == 0).sum())
        cells = [
            source,
            split,
            len(rows),
            benign,
            len(rows) - benign,
            rows["patient"].nunique(),
            rows["image"].nunique(),
        ]
        assert f"| {' | '.join(map(str, cells))} |" in card
    assert "Licence: Apache-2.0" in card
    sheet = read_image(artifact.path("contact_sheet.png")).stored
    assert sheet.shape[0] > 128 * len(patches.index.groupby(["source", "split", "malignant"]))
    lesions = pd.Series(patches.index["lesion"]).value_counts()
    assert set(lesions) == {1, 2}  # one id in both views
