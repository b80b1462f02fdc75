"""`stage=extract_public_patches`: public images of other people -> patches, for a preparation."""

from pathlib import Path

from mammo_dp import files
from mammo_dp.engine.stage import Stage
from mammo_dp.stages.common import IDENTIFIED_BY_CONTENT
from mammo_dp.stages.extract_patches import ExtractPatches


def of_public(config):
    """The configuration under which the public images are the data set."""
    return config.model_copy(update={"dataset": config.public_images.dataset})


class ExtractPublicPatches(Stage):
    name, version = "extract_public_patches", 2
    summary = "public images of other people -> patches, which a preparation is learnt from"
    uses = ("public", "patches")
    kept, optional = False, True

    def ignores(self, config):
        ignored = {
            f"public.{name}": "not written into patches" for name in ("population", "licence", "citation")
        }
        if config.public_images.dataset is None:
            ignored["public.root"] = IDENTIFIED_BY_CONTENT
            if config.public_images.kind == "patches":
                ignored |= {f"public.{name}": "of mammograms" for name in ("crops", "crop_side", "seed")}
            return ignored | {
                f"patches.{name}": "nothing is marked" for name in ("box", "margin", "min_side")
            }
        ignored |= {f"public.{name}": "of a folder" for name in ("root", "crops", "crop_side", "seed")}
        own = ExtractPatches().ignores(of_public(config))
        return ignored | {f"public.{key}": why for key, why in own.items() if key.startswith("dataset.")}

    def label(self, config):
        return config.public_images.name

    def external(self, config, store):
        if config.public_images.dataset is not None:
            return ExtractPatches().external(of_public(config), store)
        from mammo_dp.data.public import files_of  # loads numpy

        files_of(config.public_images)
        return {"public": files.tree_identity(Path(str(config.public_images.root)))}

    def is_confidential(self, config):
        data = config.public_images.dataset
        return data is not None and data.is_confidential

    def events(self, config, cache):
        return ()  # public images of other people
