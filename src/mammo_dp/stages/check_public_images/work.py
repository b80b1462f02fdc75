"""`stage=check_public_images`: compare every patch of the study with every public one. The result is the owner's."""

from collections.abc import Mapping

from mammo_dp.config import Config
from mammo_dp.data.duplicates import copied_patches
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.errors import UserError

REMEDY = "take them out of the public images; nobody in the study may be among them"


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    """Raises UserError if a patient id, a file or a picture is on both sides."""
    study, public = PatchSet.load(inputs["patches"]), PatchSet.load(inputs["public"])
    for column, what in (("source_sha256", "files"), ("patient", "patient ids")):
        shared = (set(study.index[column]) & set(public.index[column])) - {""}
        if shared:
            raise UserError(f"{len(shared)} {what} of the public images are in the study as well; {REMEDY}")
    pairs = copied_patches(study.images, public.images)
    if pairs:
        names = ", ".join(str(public.index["patch"][number]) for _, number in pairs[:3])
        count = len({number for _, number in pairs})
        raise UserError(f"{count} public patches are copies of patches of the study ({names}); {REMEDY}")
    return StageResult(
        metrics={"patches": len(study), "public_patches": len(public)},
        summary=f"none of {len(public)} public patches is among the {len(study)} of the study",
    )
