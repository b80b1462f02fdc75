"""The settings of a classifier that may leave the building."""

from typing import Any

from mammo_dp.config import Config
from mammo_dp.files import Cache, file_identity
from mammo_dp.models.classifier import BACKBONE


def released_settings(config: Config, cache: Cache) -> dict[str, Any]:
    """The configuration that may leave: no path, no seed of training, nothing of the machine."""
    weights = config.classifier.weights_file
    public = {"imagenet": "imagenet", "none": "random"}.get(config.classifier.weights, "a file of its own")
    settings: dict[str, Any] = {
        "dataset": config.dataset.name,
        "split": config.dataset.split,
        "precision": config.runtime.precision,
        "experiment": config.experiment.name,
        "patches": config.patches.model_dump(),
        "classifier": config.classifier.model_dump(exclude={"cache_features"}) | {"weights": public},
        "recipe": config.recipe.model_dump(),
        "privacy": config.privacy.model_dump(exclude={"require"}) | {"public_count": config.public_count},
    }
    if config.classifier.trains_backbone or config.experiment.continues_synpre:
        settings["classifier"]["trained"] = BACKBONE
    if config.experiment.continues_synpre:
        settings["pretraining"] = config.pretraining.model_dump()
    if weights is not None:  # of public pre-training; without it the head cannot be used
        settings["classifier"]["weights_sha256"] = file_identity(weights, cache)
    if config.experiment.name != "real":
        settings["synthetic"] = config.synthetic.model_dump(exclude={"root", "seed"})
    if config.trains_gan:
        settings["gan"] = config.gan.model_dump(exclude={"seed"})
        settings["gan"]["privacy"] |= {"public_count": config.generator_count}
        if not config.gan.privacy.is_private:
            settings["gan"]["privacy"] = {"epsilon": "inf"}
    if not config.privacy.is_private:
        settings["privacy"] = {"epsilon": "inf", "unit": config.privacy.unit}
    return settings
