"""`stage=check_public_images`: compare every patch and image of the study with every public one.

The result is the owner's: which images were found is not printed, and they must not be taken out one by one, since what
is then missing from a public collection would show who is in the study.
"""

from collections.abc import Mapping

from mammo_dp.config import Config
from mammo_dp.data.duplicates import copied_patches, same_pictures
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.errors import UserError

REMEDY = (
    "take another collection as a whole with public.root=FOLDER (to take out these alone would show to everybody who "
    "knows the collection who is in the study)"
)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    """Raises UserError if a patient id, a file, a whole image or a patch is on both sides."""
    study, public = PatchSet.load(inputs["patches"]), PatchSet.load(inputs["public"])
    found = {
        "files": (set(study.index["source_sha256"]) & set(public.index["source_sha256"])) - {""},
        "patient ids": (set(study.index["patient"]) & set(public.index["patient"])) - {""},
        "whole images": {number for _, number in same_pictures(study.pictures, public.pictures)},
        "patches": {number for _, number in copied_patches(study.images, public.images)},
    }
    for what, shared in found.items():
        if shared:
            raise UserError(f"{len(shared)} {what} of the public images are in the study as well; {REMEDY}")
    return StageResult(
        metrics={"patches": len(study), "public_patches": len(public)},
        summary=f"{len(public)} public patches and {len(study)} of the study: no copy was found",
    )
