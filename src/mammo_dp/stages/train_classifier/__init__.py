"""`stage=train_classifier`: patches, features and synthetic masses -> a classifier, its scores, its privacy."""

import contextlib
from typing import Any

from mammo_dp.engine.artifacts import Store
from mammo_dp.engine.stage import Input, Stage
from mammo_dp.errors import UserError
from mammo_dp.privacy.events import Event
from mammo_dp.stages.common import COHORTS, OF_THE_GAN, SPEED, WEIGHTS, backbone_weights, has_external
from mammo_dp.stages.extract_features import synpre_input


def training_inputs(config) -> dict[str, Input]:
    inputs = {"patches": Input("extract_patches"), **synpre_input(config)}
    if config.experiment.uses_synthetic:
        inputs["synthetic"] = Input("sample_synthetic")
    if config.reads_features:
        inputs["features"] = Input("extract_features")
        if config.experiment.uses_synthetic:
            inputs["synthetic_features"] = Input("extract_synthetic_features")
    if config.uses_public:
        inputs["preparation"] = Input("fit_preparation")
        inputs["public_check"] = Input("check_public_images")
    return inputs


def training_label(config) -> str:
    patient = "-patient" if config.privacy.unit == "patient" and config.experiment.uses_real else ""
    return f"{config.experiment.name}-eps{config.privacy.epsilon:g}{patient}-seed{config.seed}"


class TrainClassifier(Stage):
    name, version = "train_classifier", 9
    summary = "patches and features -> a benign/malignant classifier, private at any finite epsilon"
    uses = (
        "experiment", "recipe", "pretraining", "privacy", "seed", "classifier", "synthetic", "runtime", "dataset.name",
        "dataset.population", "public",
    )  # fmt: skip
    budget = "privacy.epsilon"

    def ignores(self, config):
        ignored = {"pretraining": "counted as the recipe of synpre"} | _of_public_images(config)
        ignored |= SPEED | OF_THE_GAN | _of_privacy(config) | _of_synthetic_images(config)
        if config.reads_features:
            fields = set(type(config.classifier).model_fields) - {"trainable", "pretrained_on"}
            held = [f"classifier.{name}" for name in fields] + ["runtime.precision"]
            return ignored | dict.fromkeys(held, "counted by the features, an input")
        ignored |= WEIGHTS | {"classifier.cache_features": "the stage reads no features"}
        if config.classifier.trains_backbone:
            ignored["classifier.backbone_mode"] = "of a frozen backbone"
        return ignored

    def derived(self, config):
        return {"public_count": config.public_count} if config.privacy.is_private else {}

    def label(self, config):
        return training_label(config)

    def inputs(self, config):
        return training_inputs(config)

    def external(self, config, store):
        return {} if config.reads_features else backbone_weights(config, store)

    def overrides(self, config, kept):
        if config.experiment.name != "synpre":
            return kept
        # for a run that continues it: its experiment is another, and its budget is not this one's
        others = ("experiment", "experiment.name", "privacy.epsilon")
        kept = [o for o in kept if o.partition("=")[0].lstrip("+~") not in others]
        return [*kept, "experiment=synpre", "privacy.epsilon=inf"]

    def events(self, config, cache):
        study, private = config.dataset.population, config.privacy.is_private
        common: dict[str, Any] = {"stage": self.name, "study": study}
        if config.experiment.uses_real:
            mechanism = None
            if private:
                from mammo_dp.training.plans import private_mechanism  # slow to import

                mechanism = private_mechanism(config, cache)
            asked = config.privacy.accountant
            yield Event(
                "training of the classifier", cohort="training", effect="shapes_model", mechanism=mechanism,
                unit=config.privacy.unit, adjacency=config.privacy.adjacency,
                accountant=mechanism.accountant(asked) if mechanism else asked,
                why="the classifier was trained on these images"
                + ("" if private else " without differential privacy"),
                **common,
            )  # fmt: skip
            if private:
                yield Event(
                    "the account of each training unit (risk.csv, metrics.json)", cohort="training", effect="internal",
                    why="it is an exact function of these images", **common,
                )  # fmt: skip
        if study in config.classifier.pretrained_on:
            for name in ("train", "val"):
                yield Event(
                    "training of the backbone", cohort=COHORTS[name], effect="shapes_model",  # type: ignore[arg-type]
                    why="the backbone's weights were trained on images of these patients without differential privacy",
                    **common,
                )  # fmt: skip
        if config.validates_on_real:
            yield Event(
                "choice of the epoch", cohort="validation", effect="shapes_model",
                why="the epoch was chosen by its score on these images", **common,
            )  # fmt: skip
            yield Event(
                "validation scores of every epoch (log.jsonl)", cohort="validation", effect="internal",
                why="they are exact functions of the images", **common,
            )  # fmt: skip
        for name in ("val", "test", *(["external"] if has_external(config) else [])):
            yield Event(
                "metrics and predictions", cohort=COHORTS[name],  # type: ignore[arg-type]
                effect="published",
                why="published metrics and predictions are exact functions of these images", **common,
            )  # fmt: skip

    def assumptions(self, config):
        if config.dataset.population not in config.classifier.pretrained_on:
            yield "the backbone's weights come from data without these patients"
        if config.uses_public:
            yield f"the public images ({config.public_images.name}) show none of these patients"
        if not config.privacy.is_private:
            return
        yield (
            f"the size of the training set that noise and steps rest on, N = {config.public_count}, is public knowledge"
        )
        if config.privacy.randomness == "seeded":
            from mammo_dp.privacy.statement import SEEDED  # slow to import

            yield SEEDED
        given = config.experiment.uses_synthetic and config.synthetic.name != "mcgan"
        if given and config.synthetic.role == "public":
            yield "the synthetic images are public: their gradients enter without noise"

    def precomputation(self, config):
        """A calibration under Poisson sampling takes up to a minute; a sweep has one for each budget and setup."""
        if not config.privacy.is_private or config.is_full_batch:
            return None
        recipe = config.recipe.model_dump(include={"epochs", "batch_size", "select"})
        return [config.privacy.model_dump(), config.public_count, recipe]

    def precompute(self, config):
        from mammo_dp.privacy.loss_distribution import cross_check
        from mammo_dp.training.plans import make_plan

        cache = Store.of(config).cache
        with contextlib.suppress(UserError):  # raised again when the run itself is checked
            plan = make_plan(config, units=0, cache=cache)
            if plan.mechanism is not None:
                cross_check(plan.mechanism, delta=config.privacy.delta, cache=cache)

    def closing_lines(self, config, artifact):
        from mammo_dp.engine.status import headline

        yield headline(artifact)


def _of_privacy(config) -> dict[str, str]:
    ignored = {
        "privacy.require": "a check before the run",
        "privacy.public_count": "counted as the number that it gives",
    }
    if not config.privacy.is_private:
        unclaimed = ["adjacency", "accountant", "randomness"]
        if not (config.trains_gan and config.gan.privacy.is_private):  # whose ledger is read at them
            unclaimed += ["delta"] if config.experiment.uses_real else ["delta", "unit"]
        ignored |= {f"privacy.{name}": "the run is not private" for name in unclaimed}
        ignored["recipe.max_grad_norm"] = "nothing is clipped"
    elif config.is_full_batch:
        ignored["privacy.accountant"] = "full batches have an exact formula"
    return ignored


def _of_public_images(config) -> dict[str, str]:
    if not config.uses_public:
        return {"public": "the recipe reads no public image"}
    named = ("name", "population", "licence", "citation")  # in the model card and the statement
    others = set(type(config.public_images).model_fields) - set(named)
    return {f"public.{name}": "of the public images, an input" for name in others}


def _of_synthetic_images(config) -> dict[str, str]:
    if not config.experiment.uses_synthetic:
        return {"synthetic": "no synthetic image is trained on"}
    images = ("name", "root", "per_class", "seed", "epoch", "trained_on")
    ignored = {f"synthetic.{name}": "of the images, an input" for name in images}
    if config.experiment.uses_real or config.recipe.select != "best_val":
        chosen = ["validation", "val_fraction"]
    else:
        chosen = ["val_fraction"] if config.validates_on_real else []
    ignored |= {f"synthetic.{name}": "no epoch is chosen on synthetic images" for name in chosen}
    if not config.privacy.is_private:
        ignored |= {f"synthetic.{name}": "without noise the two roles are one" for name in ("role", "weight")}
    elif config.synthetic.role == "pooled":
        ignored["synthetic.weight"] = "of synthetic.role=public"
    return ignored
