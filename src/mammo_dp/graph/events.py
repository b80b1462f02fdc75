"""For each stage: what it does to private data, and what its guarantee rests on."""

from collections.abc import Iterable
from typing import Any

from mammo_dp.config import Config
from mammo_dp.files import Cache
from mammo_dp.privacy.events import Event


def no_events(config: Config, cache: Cache) -> Iterable[Event]:
    """Nothing that a released model would depend on: no setting and no number here is estimated from the images."""
    return ()


def generator_events(config: Config, cache: Cache) -> Iterable[Event]:
    privacy = config.gan.privacy
    mechanism = None
    if privacy.is_private:
        from mammo_dp.privacy.planning import generator_mechanism  # slow to import

        mechanism = generator_mechanism(config, cache)
    common: dict[str, Any] = {
        "stage": "train_gan",
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


def generator_assumptions(config: Config) -> Iterable[str]:
    privacy = config.gan.privacy
    if not privacy.is_private:
        return
    yield (
        f"the size of the generator's training set that noise and steps rest on, N = {config.generator_count}, is "
        "public knowledge"
    )
    if privacy.randomness == "seeded":
        from mammo_dp.privacy.statement import SEEDED  # slow to import

        yield SEEDED


def synthetic_assumptions(config: Config) -> Iterable[str]:
    chosen = config.synthetic.name == "mcgan" and config.synthetic.epoch is not None
    if chosen and config.gan.privacy.is_private:
        yield "synthetic.epoch was chosen without looking at real images or at distances to them"


def synthetic_events(config: Config, cache: Cache) -> Iterable[Event]:
    if config.synthetic.name == "mcgan":
        return  # the training of its generator has said it all
    yield Event(
        GENERATOR,
        stage="sample_synthetic",
        cohort="training",
        study=config.synthetic.trained_on,
        effect="shapes_model",
        why="the generator of the synthetic images was trained on them without differential privacy",
    )


def evaluation_events(config: Config, cache: Cache) -> Iterable[Event]:
    """Distances are exact functions of the real images. Those to training images would void a private generator."""
    common: dict[str, Any] = {"stage": "evaluate_synthetic", "study": config.dataset.population}
    private = config.synthetic.name == "mcgan" and config.gan.privacy.is_private
    sets = {name for pair in config.evaluation.pairs for name in pair.split(":")} | set(
        config.evaluation.held_out
    )
    cohorts = {"train": "training", "val": "validation", "test": "test", "external": "external"}
    yield Event(
        "distances, numbers and pictures of training images beside synthetic ones", cohort="training",
        effect="internal" if private else "published",
        why="they are exact functions of these images", **common,
    )  # fmt: skip
    for name in ("val", "test", "external"):
        if name in sets and (name != "external" or _has_external(config)):
            yield Event(
                "distances between sets of images", cohort=cohorts[name],  # type: ignore[arg-type]
                effect="published", why="they are exact functions of these images", **common,
            )  # fmt: skip
    for name in config.evaluation.held_out:
        yield Event(
            "pictures of images beside their nearest synthetic ones (nearest_*.png)",
            cohort=cohorts[name],  # type: ignore[arg-type]
            effect="internal", why="they show the images", **common,
        )  # fmt: skip


def _has_external(config: Config) -> bool:
    return any(source.role == "external" for source in config.dataset.sources.values())


def training_events(config: Config, cache: Cache) -> Iterable[Event]:
    study, private = config.dataset.population, config.privacy.is_private
    common: dict[str, Any] = {"stage": "train_classifier", "study": study}
    if config.experiment.uses_real:
        mechanism = None
        if private:
            from mammo_dp.privacy.planning import private_mechanism  # slow to import

            mechanism = private_mechanism(config, cache)
        yield Event(
            "training of the classifier", cohort="training", effect="shapes_model", mechanism=mechanism,
            unit=config.privacy.unit, adjacency=config.privacy.adjacency,
            accountant=mechanism.accountant(config.privacy.accountant) if mechanism else config.privacy.accountant,
            why="the classifier was trained on these images" + ("" if private else " without differential privacy"),
            **common,
        )  # fmt: skip
        if private:
            yield Event(
                "the account of each training unit (risk.csv, metrics.json)", cohort="training", effect="internal",
                why="it is an exact function of these images", **common,
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
    for cohort in ("validation", "test", *(["external"] if _has_external(config) else [])):
        yield Event(
            "metrics and predictions", cohort=cohort, effect="published",
            why="published metrics and predictions are exact functions of these images", **common,
        )  # fmt: skip


GENERATOR = "training of the generator"


def training_assumptions(config: Config) -> Iterable[str]:
    yield "the backbone's weights come from data without these patients"
    if not config.privacy.is_private:
        return
    yield f"the size of the training set that noise and steps rest on, N = {config.public_count}, is public knowledge"
    if config.privacy.randomness == "seeded":
        from mammo_dp.privacy.statement import SEEDED  # slow to import

        yield SEEDED
    given = config.experiment.uses_synthetic and config.synthetic.name == "release"
    if given and config.synthetic.role == "public":
        yield "the synthetic images are public: their gradients enter without noise"


def audit_events(config: Config, cache: Cache) -> Iterable[Event]:
    """Attacks on real records look at them without any limit. Canaries do not: what they show is the noise."""
    if config.no_retrains or not config.audit.models:
        return
    common: dict[str, Any] = {
        "stage": "audit_privacy", "cohort": "training", "study": config.dataset.population,
        "why": "they are exact functions of these images",
    }  # fmt: skip
    yield Event("rates and bounds of membership attacks", effect="published", **common)
    yield Event("the attack on each training patient (attack.csv, metrics.json)", effect="internal", **common)
