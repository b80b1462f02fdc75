"""`stage=extract_features`: patches -> features of the frozen backbone. A second stage does it for synthetic masses."""

from mammo_dp.engine.stage import Input, Stage
from mammo_dp.stages.common import OF_THE_GAN, SPEED, WEIGHTS, backbone_weights


def synpre_input(config) -> dict[str, Input]:
    """The run synpre that another setup continues."""
    if not config.experiment.continues_synpre:
        return {}
    before = config.synpre
    changed = ("experiment", "recipe", "classifier", "privacy")
    return {"backbone": Input("train_classifier", tuple((key, getattr(before, key)) for key in changed))}


class ExtractFeatures(Stage):
    name, version = "extract_features", 2
    summary = "patches -> features of the frozen backbone, for all four flips"
    uses = ("classifier", "runtime")
    kept = False
    images = "extract_patches"

    def ignores(self, config):
        training = {
            f"classifier.{name}": "of training on images" for name in ("backbone_mode", "cache_features")
        }
        training["classifier.pretrained_on"] = "a statement about the weights"
        return SPEED | OF_THE_GAN | WEIGHTS | training

    def label(self, config):
        after = f"-synpre-seed{config.seed}" if config.experiment.continues_synpre else ""
        return f"{self._images(config)}-{config.classifier.label}{after}"

    def _images(self, config) -> str:
        return config.dataset.name

    def inputs(self, config):
        return {"patches": Input(self.images), **synpre_input(config)}

    def external(self, config, store):
        return backbone_weights(config, store)

    def events(self, config, cache):
        return ()  # features are not released, and nothing about them is estimated

    def claim(self, config):
        return config.gan.privacy


class ExtractSyntheticFeatures(ExtractFeatures):
    name = "extract_synthetic_features"
    summary = "synthetic masses -> features of the frozen backbone"
    optional = True
    images = "sample_synthetic"

    def _images(self, config) -> str:
        return "synthetic"


class ExtractPublicFeatures(ExtractFeatures):
    name = "extract_public_features"
    summary = "public patches -> features of the frozen backbone"
    optional = True
    images = "extract_public_patches"

    def _images(self, config) -> str:
        return config.public_images.name
