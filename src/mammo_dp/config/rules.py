"""Rules between sections: which combinations of settings are refused, and which are warned about."""

from collections.abc import Callable, Iterator

from mammo_dp.config.schema import OF_A_CLASSIFIER, OF_PUBLIC_IMAGES, Config

UNNAMED_POPULATION = "custom table"  # of configs/dataset/custom.yaml
UNNAMED_PUBLIC = "unnamed public images"  # of configs/public/
UNNAMED = (
    "a private run on your own data: set dataset.population to an identifier of the cohort, the same one for all "
    "tables of the same patients, since their releases are added up under it"
)
LARGEST_POISSON_EPSILON = 300.0  # beyond, calibration takes minutes and the claim is empty

Rule = Callable[[Config], str | None]


def faults(config: Config) -> Iterator[str]:
    """One sentence for each rule that `config` breaks, with the override that cures it."""
    for rule in RULES:
        if fault := rule(config):
            yield fault


def warnings(config: Config) -> list[str]:
    """What is allowed and a reviewer would object to, one sentence each."""
    own, generator = config.privacy, config.gan.privacy
    claims = [("privacy.delta", own.delta, config.public_count)] if own.is_private else []
    if config.trains_gan and generator.is_private:
        claims += [
            (key, delta, config.generator_count)
            for key, delta in (("gan.privacy.delta", generator.delta), ("privacy.delta", own.delta))
        ]
    return [
        f"{key}={delta:g} is at least 1/N for N={count}: such a guarantee allows the release of a whole record; "
        f"choose a delta well below {1 / count:.2g}"
        for key, delta, count in claims
        if count is not None and delta >= 1 / count
    ]


def _best_val(config: Config) -> str | None:
    if config.recipe.select != "best_val":
        return None
    if not config.validates_on_real:
        missing = "synthetic.val_fraction" if not config.synthetic.val_fraction else None
    else:
        official = config.dataset.split == "official"
        missing = "dataset.val_fraction" if official and not config.dataset.val_fraction else None
    if missing is None:
        return None
    return f"recipe.select=best_val needs validation images; set {missing}=0.15, or recipe.select=last"


def _trained_layers(config: Config) -> str | None:
    recipe, trainable = config.recipe, config.classifier.trainable
    if trainable == "norm_head" and recipe.normalize_features:
        return (
            "recipe.normalize_features replaces the normalisation that classifier.trainable=norm_head trains; "
            "set one of the two, recipe.normalize_features=false or classifier.trainable=head"
        )
    if recipe.lr is None and trainable != "head":
        return (
            "recipe.lr=null is a rule for heads on a frozen backbone; set recipe=paper, classifier.trainable=head or "
            "recipe.lr=NUMBER"
        )
    if config.classifier.features != "last" and trainable != "head":
        return (
            f"classifier.features={config.classifier.features} is for heads on a frozen backbone; set "
            "classifier.trainable=head or classifier.features=last"
        )
    if not config.experiment.continues_synpre:
        return None
    if config.classifier.features != "last":
        return "synpre trains a backbone whose last features its head reads; set classifier.features=last"
    other = recipe.normalize_features != config.pretraining.normalize_features or config.uses_public
    if not recipe.zero_init and other:
        return (
            "synpre_realft starts from the head of synpre, which was trained on other features: set "
            "recipe.normalize_features as pretraining.normalize_features, or recipe.zero_init=true"
        )
    return None


def _predictions(config: Config) -> str | None:
    if config.stage != "predict":
        return None
    if config.predict.model is None:
        return "predict.model is missing; set predict.model=FOLDER of a trained classifier, or a checkpoint"
    if config.predict.input is None:
        return "predict.input is missing; set predict.input=FOLDER of patches, or TABLE"
    return None


def _synthetic_images(config: Config) -> str | None:
    if config.reads_synthetic and config.synthetic.name == "release" and not config.synthetic.root:
        return "synthetic.root is missing; set synthetic.root=FOLDER, absolute or below dataset.root"
    if config.reads_synthetic and config.synthetic.name == "authors_generator" and not config.synthetic.file:
        return "synthetic.file is missing; set synthetic.file=FILE, the state dict of the published generator"
    return None


def _generator(config: Config) -> str | None:
    if not config.trains_gan:
        return None
    gan, epoch = config.gan, config.synthetic.epoch
    for name in ("generator_channels", "discriminator_channels"):
        made = 4 * 2 ** len(getattr(gan, name))
        if made != gan.size:
            return (
                f"gan.{name} are for images of {made} px and gan.size={gan.size}; one entry more doubles the size, "
                "one less halves it"
            )
    kept = epoch is None or epoch == gan.epochs or (epoch < gan.epochs and epoch % gan.checkpoint_every == 0)
    if kept:
        return None
    return (
        f"synthetic.epoch={epoch} is no checkpoint; there is one every gan.checkpoint_every={gan.checkpoint_every} "
        f"epochs up to gan.epochs={gan.epochs}"
    )


def _private_generator(config: Config) -> str | None:
    privacy = config.gan.privacy
    if not config.trains_gan or not privacy.is_private:
        return None
    if config.gan.select == "fid":
        return (
            "gan.select=fid chooses the generator by its distance to private images, which gan.privacy.epsilon="
            f"{privacy.epsilon:g} does not cover; set gan.select=epoch"
        )
    if (config.privacy.unit, privacy.unit) == ("patient", "image"):
        return (
            "gan.privacy.unit=image protects images and privacy.unit=patient claims patients; set "
            "gan.privacy.unit=patient"
        )
    if config.gan.norm == "batch":
        return (
            "gan.norm=batch mixes the images of a batch, so that no clipping bounds what one of them does; set "
            "gan.norm=instance or gan.norm=group"
        )
    if fault := _not_stated(config, config.generator_count, what="a private generator", key="gan.privacy"):
        return fault
    if privacy.epsilon > LARGEST_POISSON_EPSILON:
        return (
            f"gan.privacy.epsilon={privacy.epsilon:g} bounds nothing; set gan.privacy.epsilon=inf, or at most "
            f"{LARGEST_POISSON_EPSILON:g}"
        )
    return None


def _private_run(config: Config) -> str | None:
    if not config.privacy.is_private:
        return None
    if not config.experiment.uses_real:
        return (
            f"experiment={config.experiment.name} trains on no private image, so there is nothing for "
            "privacy.epsilon to limit; set privacy.epsilon=inf (the ledger says whom the generator has seen)"
        )
    fault = None
    if config.stage in OF_A_CLASSIFIER:
        fault = _not_stated(config, config.public_count, what="a private run", key="privacy")
    return fault or _public_gradients(config) or _accountant(config)


def _not_stated(config: Config, count: int | None, *, what: str, key: str) -> str | None:
    """What a private training has to be told: a published size, and whose images they are."""
    if count is None:
        unit = (config.gan.privacy if key == "gan.privacy" else config.privacy).unit
        return f"{what} needs the published number of training {unit}s: set {key}.public_count=N, or {key}.epsilon=inf"
    return UNNAMED if config.dataset.population == UNNAMED_POPULATION else None


def _public_gradients(config: Config) -> str | None:
    if not config.experiment.uses_synthetic or config.synthetic.role != "public":
        return None
    if config.classifier.trains_backbone:
        return (
            "synthetic.role=public adds gradients of the head alone; set synthetic.role=pooled, or "
            "classifier.trainable=head"
        )
    if config.classifier.backbone_mode == "train":
        return (
            "classifier.backbone_mode=train draws stochastic depth for private and public images from one stream, so "
            "public gradients would depend on private batches; set classifier.backbone_mode=eval, or "
            "synthetic.role=pooled"
        )
    return None


def _accountant(config: Config) -> str | None:
    privacy = config.privacy
    if config.is_full_batch:
        return None
    if privacy.epsilon > LARGEST_POISSON_EPSILON:
        return (
            f"privacy.epsilon={privacy.epsilon:g} bounds nothing, and no accountant resolves it under Poisson "
            f"sampling; set privacy.epsilon=inf, or at most {LARGEST_POISSON_EPSILON:g}"
        )
    if privacy.adjacency == "replace":
        return (
            "privacy.adjacency=replace holds for full batches only, since no accountant here covers replacement "
            "under Poisson sampling; set recipe.batch_size=null (or recipe=dp_gd), or another adjacency"
        )
    if privacy.accountant == "gdp":
        return (
            "privacy.accountant=gdp is exact for full batches only and can underestimate under Poisson sampling; "
            "use prv or rdp, or recipe.batch_size=null"
        )
    return None


def _word(population: str) -> str:
    return " ".join(population.casefold().split())


def _public_images(config: Config) -> str | None:
    public, recipe, classifier = config.public, config.recipe, config.classifier
    name_some = (
        "set public=patches public.root=FOLDER (other people's), or public=mammograms public.root=FOLDER"
    )
    if public is None:
        if config.stage in OF_PUBLIC_IMAGES:
            return f"stage={config.stage} needs public images: {name_some}"
        if recipe.components is not None and config.stage in OF_A_CLASSIFIER:
            return f"recipe={recipe.name} learns from public images: {name_some}, or recipe=dp_rule"
    elif public.population == UNNAMED_PUBLIC:
        return "set public.population to a word for the people of the public images; the privacy statement names it"
    else:
        shown = {_word(public.population), _word(public.dataset.population if public.dataset else "")}
        if _word(config.dataset.population) in shown:
            return (
                f"the public images are of population {public.population}, and so is the study: no patient of the "
                "study may be among them; set public=... to images of other people"
            )
    if config.pretraining.components is not None:
        return "synpre trains every parameter, so there are no components; set pretraining.components=null"
    if recipe.flips == "mean" and (classifier.trains_backbone or classifier.backbone_mode == "train"):
        return (
            "recipe.flips=mean is for features of a frozen backbone; set classifier.trainable=head and "
            "classifier.backbone_mode=eval, or another recipe"
        )
    return None


RULES: tuple[Rule, ...] = (
    _best_val,
    _trained_layers,
    _predictions,
    _synthetic_images,
    _public_images,
    _generator,
    _private_generator,
    _private_run,
)
