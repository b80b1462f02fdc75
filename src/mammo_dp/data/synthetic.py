"""The published synthetic masses: files batch_{b}_{i}_{malignant,benign}.png in one folder."""

import hashlib
import re
from pathlib import Path

from mammo_dp.data.records import Lesion, WholeImage
from mammo_dp.errors import UserError

NAME = re.compile(r"batch_\d+_\d+_(?P<label>malignant|benign)\.png")
SOURCE = "synthetic"


def read(folder: Path, *, per_class: int) -> list[Lesion]:
    """The first `per_class` images of each class by name. Raises UserError if there are fewer.

    Each image is a patient of its own: it belongs to no real patient.
    """
    found: dict[str, list[Path]] = {"benign": [], "malignant": []}
    for path in sorted(folder.glob("*.png")):
        name = NAME.fullmatch(path.name)
        if name is not None:
            found[name["label"]].append(path)
    fewest = min(len(paths) for paths in found.values())
    if fewest < per_class:
        counts = " and ".join(f"{len(paths)} {label}" for label, paths in found.items())
        remedy = f"set synthetic.per_class={fewest}, or" if fewest else "set"
        raise UserError(
            f"{folder} holds {counts} images of the form batch_0_0_benign.png, {per_class} of each are needed; "
            f"{remedy} synthetic.root=FOLDER"
        )
    return [
        Lesion(
            row=path.name,
            image_path=path,
            region=WholeImage(),
            patient=path.stem,
            image=path.stem,
            malignant=label == "malignant",
            pathology=label,
        )
        for label, paths in found.items()
        for path in paths[:per_class]
    ]


def is_held_out(name: str, *, fraction: float) -> bool:
    """Whether a synthetic image is set aside for choosing an epoch, by a hash of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 < fraction
