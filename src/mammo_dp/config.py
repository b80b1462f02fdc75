"""The whole configuration and the rules between its sections: the one schema.

Hydra composes the YAML files of `configs/`; `parse` turns the result into a frozen `Config` or reports every
fault in it at once. Code receives the typed object, never Hydra's.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from mammo_dp.errors import UserError
from mammo_dp.sections import (
    Audit,
    Classifier,
    Clean,
    Dataset,
    Evaluation,
    Experiment,
    Export,
    Gan,
    Patches,
    Predict,
    Privacy,
    Recipe,
    Runtime,
    Section,
    Synthetic,
    Unit,
)

StageName = Literal[
    "status",
    "clean",
    "extract_patches",
    "train_gan",
    "sample_synthetic",
    "evaluate_synthetic",
    "extract_features",
    "train_classifier",
    "audit_privacy",
    "report",
    "export",
    "predict",
]
# stages that are about one classifier, so that its settings must make sense
OF_A_CLASSIFIER = ("train_classifier", "audit_privacy", "export")
UNNAMED_POPULATION = "custom table"  # of configs/dataset/custom.yaml
UNNAMED = (
    "a private run on data of your own needs the name of its patients: set dataset.population=NAME, one word for all "
    "tables of the same patients, since their releases are added up under it"
)
LARGEST_POISSON_EPSILON = 300.0  # beyond, calibration takes minutes and the claim is empty


class Config(Section):
    stage: StageName
    outputs: str  # root folder of all artifacts
    seed: Annotated[int, Field(ge=0, lt=2**63)]  # of the classifier
    force: bool  # run the stage again even if it is finished
    build_inputs: bool  # build missing inputs first
    dry_run: bool  # only print what would be built
    dataset: Dataset
    patches: Patches
    classifier: Classifier
    recipe: Recipe
    pretraining: Recipe  # of synpre, which trains every parameter; its recipe whatever `recipe` is
    privacy: Privacy
    experiment: Experiment
    gan: Gan
    synthetic: Synthetic
    evaluation: Evaluation
    features_of: Literal["patches", "synthetic"]  # what stage=extract_features reads
    audit: Audit
    export: Export
    predict: Predict
    clean: Clean
    runtime: Runtime

    @property
    def public_count(self) -> int | None:
        """The published number of training units, images or patients; None if nobody stated it.

        Pooled synthetic images are counted as units of their own.
        """
        count = self.privacy.public_count
        if count is None:
            count = self._published_count(self.privacy.unit)
        if count is not None and self.pools_synthetic:
            count += self.synthetic.count
        return count

    @property
    def generator_count(self) -> int | None:
        """The published number of units that a private generator is trained on; None if nobody stated it."""
        own, shared = self.gan.privacy, self.privacy
        stated = own.public_count or (shared.public_count if own.unit == shared.unit else None)
        return stated or self._published_count(own.unit)

    def _published_count(self, unit: Unit) -> int | None:
        counts = (self.dataset.public_count or {}).get(self.dataset.split)
        if counts is None or self.dataset.abnormality != "mass":  # the published numbers are those of masses
            return None
        kept = 1 - self.dataset.val_fraction if self.dataset.split == "official" else 1.0
        return round(kept * getattr(counts, unit))

    @property
    def pools_synthetic(self) -> bool:
        """Whether synthetic images count as private records of this run."""
        return self.experiment.name == "real_syn" and self.synthetic.role == "pooled"

    @property
    def reads_synthetic(self) -> bool:
        """Whether the stage that is asked for needs synthetic images."""
        if self.stage == "extract_features":
            return self.features_of == "synthetic" or self.experiment.continues_synpre
        if self.stage in OF_A_CLASSIFIER:
            return self.experiment.name != "real"
        return self.stage in ("sample_synthetic", "evaluate_synthetic")

    @property
    def trains_gan(self) -> bool:
        """Whether the stage that is asked for is, or rests on, the training of a generator."""
        return self.stage == "train_gan" or (self.reads_synthetic and self.synthetic.name == "mcgan")

    @property
    def validates_on_real(self) -> bool:
        """Whether an epoch is chosen on validation patients; without real images only when that is asked for."""
        asked = self.experiment.uses_real or self.synthetic.validation == "real"
        return self.recipe.select == "best_val" and asked

    @property
    def reads_features(self) -> bool:
        """Whether the classifier trains on features that were computed once."""
        classifier = self.classifier
        return classifier.cache_features and not classifier.trains_body and classifier.body_mode == "eval"

    @property
    def synpre(self) -> "Config":
        """The run `synpre` of the same seed, whose body and head `synpre_realft` starts from."""
        return self.model_copy(
            update={
                "experiment": Experiment(name="synpre"),
                "recipe": self.pretraining,
                "classifier": self.classifier.model_copy(update={"trainable": "all", "body_mode": "eval"}),
                "privacy": self.privacy.model_copy(update={"epsilon": float("inf"), "require": None}),
            }
        )

    @property
    def is_full_batch(self) -> bool:
        """Whether every step of a private run sees all units."""
        return self.recipe.batch_size is None or self.recipe.batch_size >= (self.public_count or 0)

    @property
    def no_retrains(self) -> str | None:
        """Why an audit cannot retrain heads like this run's in one batch, as a clause; None where it can."""
        recipe = self.recipe
        for fault, reason in (
            (self.experiment.uses_synthetic, "the run also trains on synthetic images"),
            (not self.reads_features, "the run trains on images, not on cached features"),
            (self.classifier.trainable != "head", "more than the head trains"),
            (recipe.head != "linear" or recipe.optimizer != "sgd", "its recipe is not SGD on a linear head"),
            (recipe.flips == "random", "its recipe flips at random"),
            (recipe.select == "best_val", "its recipe chooses an epoch"),
            (recipe.batch_size is not None, "its recipe has batches, not full steps"),
        ):
            if fault:
                return reason
        return None

    @property
    def warnings(self) -> list[str]:
        """What is allowed and a reviewer would object to, one sentence each."""
        own, generator = self.privacy, self.gan.privacy
        claims = [("privacy.delta", own.delta, self.public_count)] if own.is_private else []
        if self.trains_gan and generator.is_private:
            claims += [(key, delta, self.generator_count) for key, delta in
                       (("gan.privacy.delta", generator.delta), ("privacy.delta", own.delta))]  # fmt: skip
        return [
            f"{key}={delta:g} is at least 1/N for N={count}: such a guarantee allows the release of a whole record; "
            f"choose a delta well below {1 / count:.2g}"
            for key, delta, count in claims
            if count is not None and delta >= 1 / count
        ]

    @model_validator(mode="after")
    def _best_val_needs_validation(self) -> "Config":
        if self.recipe.select != "best_val":
            return self
        if not self.validates_on_real:
            missing = "synthetic.val_fraction" if not self.synthetic.val_fraction else None
        else:
            official = self.dataset.split == "official"
            missing = "dataset.val_fraction" if official and not self.dataset.val_fraction else None
        if missing:
            raise ValueError(
                f"recipe.select=best_val needs validation images; set {missing}=0.15, or recipe.select=last"
            )
        return self

    @model_validator(mode="after")
    def _trained_layers_fit_the_recipe(self) -> "Config":
        recipe, trainable = self.recipe, self.classifier.trainable
        if trainable == "norm_head" and recipe.normalize_features:
            raise ValueError(
                "recipe.normalize_features replaces the normalisation that classifier.trainable=norm_head trains; "
                "set one of the two, recipe.normalize_features=false or classifier.trainable=head"
            )
        if recipe.lr is None and trainable != "head":
            raise ValueError(
                "recipe.lr=null is a rule for heads on a frozen body; set classifier.trainable=head or recipe.lr=NUMBER"
            )
        if self.classifier.features != "last" and trainable != "head":
            raise ValueError(
                f"classifier.features={self.classifier.features} is for heads on a frozen body; set "
                "classifier.trainable=head or classifier.features=last"
            )
        if self.experiment.continues_synpre and self.classifier.features != "last":
            raise ValueError(
                "synpre trains a body whose last features its head reads; set classifier.features=last"
            )
        starts_from_synpre = self.experiment.continues_synpre and not recipe.zero_init
        if starts_from_synpre and recipe.normalize_features != self.pretraining.normalize_features:
            raise ValueError(
                "synpre_realft goes on from the head of synpre, which was trained on other features: set "
                "recipe.normalize_features as pretraining.normalize_features, or recipe.zero_init=true"
            )
        return self

    @model_validator(mode="after")
    def _predictions_need_a_model_and_images(self) -> "Config":
        for key in ("model", "input"):
            if self.stage == "predict" and getattr(self.predict, key) is None:
                what = {"model": "FOLDER of a trained classifier", "input": "FOLDER of patches, or TABLE"}[
                    key
                ]
                raise ValueError(f"predict.{key} is missing; set predict.{key}={what}")
        return self

    @model_validator(mode="after")
    def _synthetic_experiments_need_images(self) -> "Config":
        if not self.reads_synthetic:
            return self
        if self.synthetic.name == "none" or not self.synthetic.per_class:
            raise ValueError(
                "synthetic images are needed; set synthetic=mcgan or synthetic=release (and synthetic.per_class=1500)"
            )
        if self.synthetic.name == "release" and not self.synthetic.root:
            raise ValueError(
                "synthetic.root is missing; set synthetic.root=FOLDER, absolute or below dataset.root"
            )
        return self

    @model_validator(mode="after")
    def _generators_fit(self) -> "Config":
        if not self.trains_gan:
            return self
        gan, epoch = self.gan, self.synthetic.epoch
        for name in ("generator_channels", "discriminator_channels"):
            made = 4 * 2 ** len(getattr(gan, name))
            if made != gan.size:
                raise ValueError(
                    f"gan.{name} are for images of {made} px and gan.size={gan.size}; one entry more doubles the size, "
                    "one less halves it"
                )
        kept = (
            epoch is None or epoch == gan.epochs or (epoch < gan.epochs and epoch % gan.checkpoint_every == 0)
        )
        if not kept:
            raise ValueError(
                f"synthetic.epoch={epoch} is no checkpoint; there is one every gan.checkpoint_every="
                f"{gan.checkpoint_every} epochs up to gan.epochs={gan.epochs}"
            )
        return self

    @model_validator(mode="after")
    def _private_generators_can_be_accounted(self) -> "Config":
        privacy = self.gan.privacy
        if not self.trains_gan or not privacy.is_private:
            return self
        if self.gan.select == "fid":
            raise ValueError(
                "gan.select=fid chooses the generator by its distance to private images, which gan.privacy.epsilon="
                f"{privacy.epsilon:g} does not cover; set gan.select=epoch"
            )
        if (self.privacy.unit, privacy.unit) == ("patient", "image"):
            raise ValueError(
                "gan.privacy.unit=image protects images and privacy.unit=patient claims patients; set "
                "gan.privacy.unit=patient"
            )
        if self.gan.norm == "batch":
            raise ValueError(
                "gan.norm=batch mixes the images of a batch, so that no clipping bounds what one of them does; set "
                "gan.norm=instance or gan.norm=group"
            )
        if self.generator_count is None:
            raise ValueError(
                f"a private generator needs the published number of training {privacy.unit}s: set "
                "gan.privacy.public_count=N, or gan.privacy.epsilon=inf"
            )
        if self.dataset.population == UNNAMED_POPULATION:
            raise ValueError(UNNAMED)
        if privacy.epsilon > LARGEST_POISSON_EPSILON:
            raise ValueError(
                f"gan.privacy.epsilon={privacy.epsilon:g} bounds nothing; set gan.privacy.epsilon=inf, or at most "
                f"{LARGEST_POISSON_EPSILON:g}"
            )
        return self

    @model_validator(mode="after")
    def _private_runs_can_be_accounted(self) -> "Config":
        privacy = self.privacy
        if not privacy.is_private:
            return self
        if not self.experiment.uses_real:
            raise ValueError(
                f"experiment={self.experiment.name} trains on no private image, so there is nothing for "
                "privacy.epsilon to limit; set privacy.epsilon=inf (the ledger says whom the generator has seen)"
            )
        if self.classifier.trains_body and self.experiment.uses_synthetic and self.synthetic.role == "public":
            raise ValueError(
                "synthetic.role=public adds gradients of the head alone; set synthetic.role=pooled, or "
                "classifier.trainable=head"
            )
        mixes = self.experiment.uses_synthetic and self.synthetic.role == "public"
        if mixes and self.classifier.body_mode == "train":
            raise ValueError(
                "classifier.body_mode=train draws stochastic depth for private and public images from one stream, so "
                "public gradients would depend on private batches; set classifier.body_mode=eval, or "
                "synthetic.role=pooled"
            )
        if mixes and self.recipe.lr is None:
            raise ValueError(
                "recipe.lr=null does not know of public gradients, which synthetic.role=public mixes in; set "
                "synthetic.role=pooled, or recipe.lr=NUMBER"
            )
        if self.public_count is None and self.stage in OF_A_CLASSIFIER:
            raise ValueError(
                f"a private run needs the published number of training {privacy.unit}s: set "
                "privacy.public_count=N, or privacy.epsilon=inf"
            )
        if self.dataset.population == UNNAMED_POPULATION and self.stage in OF_A_CLASSIFIER:
            raise ValueError(UNNAMED)
        if not self.is_full_batch and privacy.epsilon > LARGEST_POISSON_EPSILON:
            raise ValueError(
                f"privacy.epsilon={privacy.epsilon:g} bounds nothing, and no accountant resolves it under Poisson "
                f"sampling; set privacy.epsilon=inf, or at most {LARGEST_POISSON_EPSILON:g}"
            )
        if not self.is_full_batch and privacy.adjacency == "replace":
            raise ValueError(
                "privacy.adjacency=replace holds for full batches only, since no accountant here covers replacement "
                "under Poisson sampling; set recipe.batch_size=null (or recipe=dp_gd), or another adjacency"
            )
        if not self.is_full_batch and privacy.accountant == "gdp":
            raise ValueError(
                "privacy.accountant=gdp is exact for full batches only and can underestimate under Poisson sampling; "
                "use prv or rdp, or recipe.batch_size=null"
            )
        return self


def parse(composed: Mapping[str, Any]) -> Config:
    """Validate a composed configuration.

    Raises UserError with one line a fault: key, value, what is allowed, nearest spelling.
    """
    try:
        return Config.model_validate(_as_its_experiment_says(composed))
    except ValidationError as error:
        raise UserError("; ".join(_describe(fault, composed) for fault in error.errors())) from None


def _as_its_experiment_says(composed: Mapping[str, Any]) -> dict[str, Any]:
    """Two setups of the paper fix parts of how they train, whatever recipe is asked for (paper, Sec. 3).

    synpre trains every parameter by the recipe `pretraining`; synpre_realft trains its one linear layer.
    """
    name = composed.get("experiment", {}).get("name")
    changed: dict[str, Any] = {}
    if name == "synpre":
        changed["recipe"] = composed.get("pretraining")
        changed["classifier"] = {**composed.get("classifier", {}), "trainable": "all", "body_mode": "eval"}
    elif name == "synpre_realft":
        changed["recipe"] = {**composed.get("recipe", {}), "head": "linear"}
    return {**composed, **changed}


def config_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, at the repository's root in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError("the configs/ folder is missing from this installation; install mammo-dp again")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"privacy": {"epsilon": 1}} -> {"privacy.epsilon": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nearest(key: str, known: list[str]) -> str:
    """' Did you mean X?' or nothing."""
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f" Did you mean {match[0]}?" if match else ""


def known_keys() -> list[str]:
    """Every key of the schema, dotted."""

    def walk(section: type[BaseModel], prefix: str) -> list[str]:
        keys: list[str] = []
        for name, field in section.model_fields.items():
            inner = next(
                (
                    t
                    for t in (field.annotation, *getattr(field.annotation, "__args__", ()))
                    if isinstance(t, type) and issubclass(t, BaseModel)
                ),
                None,
            )
            keys += walk(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
        return keys

    return walk(Config, "")


def _describe(fault: Any, composed: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {key}.{nearest(key, known_keys())}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
    message = fault["msg"][0].lower() + fault["msg"][1:]
    hint = ""
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        hint = nearest(fault["input"], [part.strip("' ") for part in message.split("'")[1::2]])
    return f"{key}={fault['input']}: {message}.{hint}".replace("..", ".")
