"""`stage=extract_public_patches`: read a folder or data set of public images. Labels are not needed, nor used.

Writes index.csv, skipped.csv and pictures.npy beside the patches.
"""

from collections.abc import Mapping

import pandas as pd

from mammo_dp.config import Config
from mammo_dp.data.patch_set import INDEX, encoded, write_pictures, write_png
from mammo_dp.data.public import files_of, patches_of
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.engine.progress import track
from mammo_dp.errors import UserError
from mammo_dp.stages.extract_patches import work as extraction
from mammo_dp.stages.extract_public_patches import of_public


def check(config: Config) -> None:
    """Refuse a data set that cannot be split as asked."""
    if config.public_images.dataset is not None:
        extraction.check(of_public(config))


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    public = config.public_images
    if public.dataset is not None:
        return extraction.run(of_public(config), inputs, output)
    rows, skipped, thumbnails = [], [], {}
    paths = files_of(public)
    for path in track(paths, "public images", total=len(paths)):
        found = patches_of(public, path, size=config.patches.size)
        if isinstance(found, str):
            skipped.append({"row": path.name, "reason": found})
            continue
        thumbnails[found[0].sha256] = found[0].thumbnail
        for patch in found:
            name = f"{public.name}/{len(rows):05d}.png"
            write_png(output.folder / name, encoded(patch.pixels))
            box = {f"box_{corner}": value for corner, value in vars(patch.box).items()}
            rows.append(
                {"patch": name, "source": public.name, "patient": "", "row": patch.file}
                | box
                | {"source_sha256": patch.sha256}
            )
    if not rows:
        raise UserError(f"none of the {len(paths)} public images gives a patch ({skipped[0]['reason']})")
    write_pictures(output.folder, thumbnails)
    pd.DataFrame(rows).to_csv(output.folder / INDEX, index=False)
    pd.DataFrame(skipped, columns=pd.Index(["row", "reason"])).to_csv(
        output.folder / "skipped.csv", index=False
    )
    return StageResult(
        metrics={"patches": len(rows), "images": len(paths) - len(skipped), "skipped": len(skipped)},
        summary=f"{len(rows)} public patches of {len(paths) - len(skipped)} images, {len(skipped)} skipped",
    )
