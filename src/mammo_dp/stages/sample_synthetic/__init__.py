"""`stage=sample_synthetic`: the generator, or published images -> synthetic masses of both classes."""

from pathlib import Path

from mammo_dp import files
from mammo_dp.data.sources import synthetic_folder
from mammo_dp.engine.stage import Input, Stage
from mammo_dp.errors import UserError
from mammo_dp.privacy.events import Event
from mammo_dp.stages.common import IDENTIFIED_BY_CONTENT
from mammo_dp.stages.train_gan import GENERATOR


class SampleSynthetic(Stage):
    name, version = "sample_synthetic", 4
    summary = "synthetic masses of both classes, as patches of the split `synthetic`"
    uses = ("synthetic", "patches.size")
    kept, optional = False, True

    def ignores(self, config):
        training = ("role", "weight", "val_fraction", "validation")
        ignored = {f"synthetic.{name}": "of training with these images" for name in training}
        ignored |= dict.fromkeys(("synthetic.root", "synthetic.file"), IDENTIFIED_BY_CONTENT)
        others = {
            "mcgan": {
                "trained_on": "the generator's own record says it",
                "malignant_condition": "of another generator",
            },
            "release": dict.fromkeys(("seed", "epoch", "malignant_condition"), "of images that are drawn"),
            "authors_generator": {"epoch": "of synthetic=mcgan"},
        }
        return ignored | {f"synthetic.{name}": why for name, why in others[config.synthetic.name].items()}

    def label(self, config):
        return f"{config.synthetic.name}-{config.synthetic.per_class}"

    def inputs(self, config):
        return {"generator": Input("train_gan")} if config.synthetic.name == "mcgan" else {}

    def external(self, config, store):
        if config.synthetic.name == "mcgan":
            return {}
        if config.synthetic.name == "authors_generator":
            file = Path(str(config.synthetic.file))
            if not file.is_file():
                raise UserError(
                    f"synthetic.file={file} is not a file; give the state dict of the published generator "
                    "(docs/gan.md says where it comes from)"
                )
            return {"generator": files.file_identity(file, store.cache)}
        folder = synthetic_folder(config)
        try:
            return {"synthetic": files.tree_identity(folder)}
        except FileNotFoundError:
            raise UserError(
                f"the folder of synthetic images, {folder}, does not exist or holds no files; set "
                "synthetic.root=FOLDER (README, 'Data and weights', says where they come from)"
            ) from None

    def events(self, config, cache):
        if config.synthetic.name == "mcgan":
            return  # the training of its generator has said it all
        yield Event(
            GENERATOR,
            stage=self.name,
            cohort="training",
            study=config.synthetic.trained_on,
            effect="shapes_model",
            why="the generator of the synthetic images was trained on them without differential privacy",
        )

    def assumptions(self, config):
        chosen = config.synthetic.name == "mcgan" and config.synthetic.epoch is not None
        if chosen and config.gan.privacy.is_private:
            yield "synthetic.epoch was chosen without looking at real images or at distances to them"

    def claim(self, config):
        return config.gan.privacy
