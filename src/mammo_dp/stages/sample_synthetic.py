"""`stage=sample_synthetic`: synthetic masses as an artifact in the form of a patch set, split `synthetic`."""

from collections.abc import Mapping

import pandas as pd

from mammo_dp.artifacts import Artifact, Output, StageResult, sha256
from mammo_dp.config import Config
from mammo_dp.data import synthetic
from mammo_dp.data.images import read_grey, why_unreadable
from mammo_dp.data.patch_set import INDEX, INDEX_COLUMNS, write_patch
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
            patch, box = whole(read_grey(lesion.image_path), config.patches.size)
        except (ValueError, OSError) as error:
            reason = why_unreadable(error, lesion.image_path)
            raise UserError(
                f"synthetic image {lesion.row} cannot be used ({reason}); fetch it again, or take it out and lower "
                "synthetic.per_class"
            ) from None
        row = write_patch(
            number, lesion, patch, box, sha256(lesion.image_path),
            source=synthetic.SOURCE, split=synthetic.SOURCE, folder=output.folder,
        )  # fmt: skip
        index.append(row)
    pd.DataFrame(index, columns=pd.Index(INDEX_COLUMNS)).to_csv(output.folder / INDEX, index=False)
    count = config.synthetic.per_class
    return StageResult(
        metrics={"benign": count, "malignant": count},
        summary=f"{len(index)} synthetic patches ({count} of each class)",
    )
