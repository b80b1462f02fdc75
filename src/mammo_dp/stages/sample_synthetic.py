"""`stage=sample_synthetic`: synthetic masses as an artifact in the form of a patch set, split `synthetic`."""

from collections.abc import Mapping

import cv2
import pandas as pd

from mammo_dp.artifacts import Artifact, Output, StageResult
from mammo_dp.config import Config
from mammo_dp.data import synthetic
from mammo_dp.data.images import read_image, why_unreadable
from mammo_dp.data.patch_set import INDEX, INDEX_COLUMNS, index_row, patch_name, write_png
from mammo_dp.data.patches import whole
from mammo_dp.data.sources import synthetic_folder
from mammo_dp.errors import UserError
from mammo_dp.progress import track


def check(config: Config) -> None:
    """Refuse a folder with too few images of a class."""
    synthetic.read(synthetic_folder(config), per_class=config.synthetic.per_class)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    lesions = synthetic.read(synthetic_folder(config), per_class=config.synthetic.per_class)
    index = []
    for number, lesion in enumerate(track(lesions, "synthetic images")):
        try:
            image = read_image(lesion.image_path)
            patch, box = whole(image.eight_bit(image.stored), config.patches.size)
        except (ValueError, OSError) as error:
            raise UserError(
                f"synthetic image {lesion.row} cannot be used ({why_unreadable(error)}); fetch it again, or take it "
                "out and lower synthetic.per_class"
            ) from None
        place = {"source": synthetic.SOURCE, "split": synthetic.SOURCE}
        name = patch_name(number, malignant=lesion.malignant, **place)
        write_png(output.folder / name, cv2.imencode(".png", patch)[1].tobytes())
        row = index_row(name, lesion, box, image.sha256, **place)
        index.append(row)
    pd.DataFrame(index, columns=pd.Index(INDEX_COLUMNS)).to_csv(output.folder / INDEX, index=False)
    count = config.synthetic.per_class
    return StageResult(
        metrics={"benign": count, "malignant": count},
        summary=f"{len(index)} synthetic patches ({count} of each class)",
    )
