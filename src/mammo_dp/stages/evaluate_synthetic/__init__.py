"""`stage=evaluate_synthetic`: real and synthetic masses -> distances and memorisation (paper, Fig. 2)."""

from pathlib import Path
from typing import Any

from mammo_dp import files
from mammo_dp.engine.stage import Input, Stage
from mammo_dp.privacy.events import Event
from mammo_dp.stages.common import COHORTS, IDENTIFIED_BY_CONTENT, OF_THE_GAN, SPEED, WEIGHTS, has_external


class EvaluateSynthetic(Stage):
    name, version = "evaluate_synthetic", 4
    summary = "distances between real and synthetic masses, memorisation -> Fig. 2"
    uses = ("evaluation", "classifier", "runtime", "dataset.population")
    optional = True

    def ignores(self, config):
        ignored = {
            f"evaluation.{name}": IDENTIFIED_BY_CONTENT
            for name in ("inception_weights", "radimagenet_weights")
        }
        ignored |= {**SPEED, **OF_THE_GAN}
        if "backbone" not in config.evaluation.spaces:
            unused = "no distance is measured in the backbone's features"
            return ignored | {"classifier": unused, "runtime.precision": unused}
        training = ("trainable", "backbone_mode", "cache_features")
        return ignored | WEIGHTS | {f"classifier.{name}": "of training the classifier" for name in training}

    def label(self, config):
        return f"{config.dataset.name}-{config.synthetic.name}"

    def inputs(self, config):
        return {"patches": Input("extract_patches"), "synthetic": Input("sample_synthetic")}

    def external(self, config, store):
        """Identity of each feature space's weights or library. What is not there is left out of the evaluation."""
        from mammo_dp.metrics import radiomics  # quick to import

        def of(given: str | None) -> str:
            if given is None or not Path(given).is_file():
                return "download" if given == "download" else "absent"
            return files.file_identity(Path(given), store.cache)

        evaluation, classifier = config.evaluation, config.classifier
        identities = {
            "backbone": classifier.named_weights or of(str(classifier.weights_file)),
            "inception": of(evaluation.inception_weights),
            "radimagenet": of(evaluation.radimagenet_weights),
            "radiomics": radiomics.installed() or "absent",
        }
        return {space: identities[space] for space in evaluation.spaces}

    def events(self, config, cache):
        """Distances are exact functions of the real images. Those to training images would void a private generator."""
        common: dict[str, Any] = {"stage": self.name, "study": config.dataset.population}
        private = config.synthetic.name == "mcgan" and config.gan.privacy.is_private
        sets = {name for pair in config.evaluation.pairs for name in pair.split(":")}
        sets |= set(config.evaluation.held_out)
        yield Event(
            "distances, numbers and pictures of training images beside synthetic ones", cohort="training",
            effect="internal" if private else "published",
            why="they are exact functions of these images", **common,
        )  # fmt: skip
        for name in ("val", "test", "external"):
            if name in sets and (name != "external" or has_external(config)):
                yield Event(
                    "distances between sets of images", cohort=COHORTS[name],  # type: ignore[arg-type]
                    effect="published", why="they are exact functions of these images", **common,
                )  # fmt: skip
        for name in config.evaluation.held_out:
            yield Event(
                "pictures of images beside their nearest synthetic ones (nearest_*.png)",
                cohort=COHORTS[name],  # type: ignore[arg-type]
                effect="internal", why="they show the images", **common,
            )  # fmt: skip

    def claim(self, config):
        return config.gan.privacy
