"""`stage=check_public_images`: stop where a public image shows somebody of the study."""

from mammo_dp.engine.stage import Input, Stage
from mammo_dp.privacy.events import Event
from mammo_dp.stages.common import COHORTS, has_external


class CheckPublicImages(Stage):
    name, version = "check_public_images", 2
    summary = (
        "the study's patches and the public ones -> the proof that they share no patient id, file or picture"
    )
    uses = ("dataset.name", "dataset.population")
    optional = True

    def label(self, config):
        return f"{config.dataset.name}-{config.public_images.name}"

    def inputs(self, config):
        return {"patches": Input("extract_patches"), "public": Input("extract_public_patches")}

    def events(self, config, cache):
        for name in ("train", "val", "test", *(["external"] if has_external(config) else [])):
            yield Event(
                "comparison with the public images", stage=self.name, cohort=COHORTS[name],  # type: ignore[arg-type]
                study=config.dataset.population, effect="internal",
                why="that it passed says that none of these images is among the public ones",
            )  # fmt: skip
