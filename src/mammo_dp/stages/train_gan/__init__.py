"""`stage=train_gan`: patches -> a generator of masses."""

from typing import Any

from mammo_dp.config.schema import Experiment
from mammo_dp.engine.stage import Input, Stage
from mammo_dp.privacy.events import Event
from mammo_dp.stages.common import SPEED

GENERATOR = "training of the generator"


class TrainGan(Stage):
    name, version = "train_gan", 4
    summary = "patches -> a generator of masses, private at any finite gan.privacy.epsilon"
    uses = ("gan", "patches.size", "runtime", "dataset.name", "dataset.population")
    optional = True
    budget = "gan.privacy.epsilon"

    def ignores(self, config):
        ignored = {**SPEED, "gan.privacy.public_count": "counted as the number that it gives"}
        if config.gan.privacy.is_private:
            ignored["gan.stop_spread"] = "real images are private, and not looked at"
        else:
            names = ("delta", "unit", "accountant", "randomness", "max_grad_norm")
            ignored |= {f"gan.privacy.{name}": "the generator is not private" for name in names}
        if config.gan.select != "fid":
            ignored["gan.select_images"] = "of gan.select=fid"
        return ignored

    def derived(self, config):
        return {"public_count": config.generator_count} if config.gan.privacy.is_private else {}

    def label(self, config):
        privacy = config.gan.privacy
        patient = "-patient" if privacy.unit == "patient" else ""
        epsilon = f"-eps{privacy.epsilon:g}{patient}" if privacy.is_private else ""
        return f"{config.dataset.name}-{config.gan.name}{epsilon}-seed{config.gan.seed}"

    def inputs(self, config):
        inputs = {"patches": Input("extract_patches")}
        if config.gan.select == "fid":
            # features of the backbone as it was given, whatever setup the generator is for: synpre would rest on itself
            plain = {"trainable": "head", "backbone_mode": "eval", "features": "last"}
            changes = (
                ("experiment", Experiment(name="real")),
                ("classifier", config.classifier.model_copy(update=plain)),
            )
            inputs["features"] = Input("extract_features", changes)
        return inputs

    def events(self, config, cache):
        privacy = config.gan.privacy
        mechanism = None
        if privacy.is_private:
            from mammo_dp.training.plans import generator_mechanism  # slow to import

            mechanism = generator_mechanism(config, cache)
        common: dict[str, Any] = {
            "stage": self.name,
            "cohort": "training",
            "study": config.dataset.population,
        }
        yield Event(
            GENERATOR, effect="shapes_model", mechanism=mechanism, unit=privacy.unit, adjacency="zero_out",
            accountant=privacy.accountant,
            why="the generator of the synthetic images was trained on them"
            + ("" if privacy.is_private else " without differential privacy"),
            **common,
        )  # fmt: skip
        if config.gan.select == "fid":
            yield Event(
                "choice of the generator's checkpoint", effect="shapes_model",
                why="the generator's checkpoint was chosen by its distance to these images", **common,
            )  # fmt: skip
        if not privacy.is_private:
            yield Event(
                "the discriminator's losses on real images (log.jsonl)", effect="internal",
                why="they are exact functions of the images", **common,
            )  # fmt: skip

    def assumptions(self, config):
        privacy = config.gan.privacy
        if not privacy.is_private:
            return
        yield (
            f"the size of the generator's training set that noise and steps rest on, N = {config.generator_count}, "
            "is public knowledge"
        )
        if privacy.randomness == "seeded":
            from mammo_dp.privacy.statement import SEEDED  # slow to import

            yield SEEDED

    def claim(self, config):
        return config.gan.privacy
