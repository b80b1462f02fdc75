import cv2
import numpy as np

from mammo_dp.data.readers import release
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Skipped
from mammo_dp.files import Cache
from tests.conftest import shared


def read(folder):
    return list(release.read(Request(folder, "mass", Cache(folder))))


def published(root, split="train", benign=True, name=None, content=None):
    folder = root / split / f"is_benign_{str(benign).lower()}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"patientcbis-ddsm__P_00001_image12_mass3_is_benign_{int(benign)}.png")
    if content is None:
        content = cv2.imencode(".png", np.random.default_rng(0).integers(0, 99, (128, 128), np.uint8))[
            1
        ].tobytes()
    path.write_bytes(content)
    return path


def test_names_and_folders(tmp_path):
    published(tmp_path)
    published(tmp_path, "test", benign=False)
    published(tmp_path, "val", name="other.png")
    published(tmp_path, "val", benign=False, name="patientbcdr__7_image1_mass1_is_benign_1.png")
    records = read(tmp_path)
    assert [r.malignant for r in records if isinstance(r, Lesion)] == [False, True]
    assert {r.patient for r in records if isinstance(r, Lesion)} == {"P_00001"}
    skipped = [r.reason for r in records if isinstance(r, Skipped)]
    assert sorted(skipped) == [
        "file name is not of the published form", "label in the file name contradicts the folder",
    ]  # fmt: skip


def test_the_published_patches():
    """1104 / 192 / 402 images of 578 / 102 / 212 patients, as published."""
    records = read(shared() / "data/release/cbis-ddsm")
    assert all(isinstance(record, Lesion) for record in records)
    splits = {s: [r for r in records if r.split == s] for s in ("train", "val", "test")}  # type: ignore[union-attr]
    assert [len(rows) for rows in splits.values()] == [1104, 192, 402]
    assert [len({r.patient for r in rows}) for rows in splits.values()] == [578, 102, 212]  # type: ignore[union-attr]
