"""The stage graph: which stages there are, what each reads, what changes its result, what it does to private data."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammo_dp import files
from mammo_dp.artifacts import Store
from mammo_dp.config import Config
from mammo_dp.data.sources import source_folders, synthetic_folder, table_of, toy_identity
from mammo_dp.errors import UserError
from mammo_dp.files import Cache
from mammo_dp.privacy.events import Event


@dataclass(frozen=True)
class Input:
    """What a stage reads: another stage, under its own configuration with `changes` to the top level."""

    stage: str
    changes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    `module` holds `run(config, inputs, output) -> StageResult` and, if bad input can be told before any folder is
    made, `check(config)` and `check_ledger(config, ledger)`, which raise UserError. It is imported only when it is
    needed: torch is slow to load.

    `events` has no default: whoever adds a stage must say what it does to private data, from the configuration alone,
    so that a claim can be refused before anything runs.
    """

    name: str
    summary: str  # one line for a person
    module: str
    version: int  # raised when the code changes results
    groups: tuple[str, ...]  # parts of the command line that it depends on
    label: Callable[[Config], str]
    settings: Callable[[Config], dict[str, Any]]  # the keys that change its result
    events: Callable[[Config, Cache], Iterable[Event]]  # its own; those of its inputs are added
    upstream: Callable[[Config], dict[str, Input]] = lambda config: {}  # role -> input
    outside: Callable[[Config, Store], dict[str, str]] = lambda config, store: {}  # identity of outside data
    assumptions: Callable[[Config], Iterable[str]] = lambda config: ()  # what the guarantee rests on
    optional: bool = False  # nobody needs it who does not ask for it
    collects: str | None = None  # reads every finished artifact of this stage instead of upstream nodes


# --- settings and outside data ------------------------------------------------------------------------------------


def _dataset_settings(config: Config) -> dict[str, Any]:
    data = config.dataset
    settings: dict[str, Any] = {
        "name": data.name,
        "sources": {name: {"reader": s.reader, "role": s.role} for name, s in data.sources.items()},
        "split": data.split,
        "abnormality": data.abnormality,
        "duplicates": data.duplicates,
    }
    if data.split == "official" or data.abnormality != "mass":
        settings |= data.model_dump(include={"val_fraction", "test_fraction", "split_seed"})
    return settings


def _raw_data(config: Config, store: Store) -> dict[str, str]:
    """Identity of each source's folder. Toy data is made from its settings, which identify it."""
    data = config.dataset
    if data.toy is not None:
        return {"toy": toy_identity(data.toy)}
    identities = {}
    for name, folder in source_folders(data).items():
        source = data.sources[name]
        if not folder.is_dir():
            if source.optional:
                continue
            fault = "is a file; give its folder" if folder.is_file() else "does not exist"
            raise UserError(_no_data(config, name, folder, fault))
        try:
            identities[name] = _identity(config, folder, source.reader)
        except FileNotFoundError:
            if not source.optional:
                raise UserError(_no_data(config, name, folder, "holds no files")) from None
    if not identities:
        raise UserError(
            f"dataset.root={data.root} holds none of the folders of dataset={data.name} "
            f"({', '.join(s.root for s in data.sources.values())}); set dataset.root to the folder that does"
        )
    return identities


def _identity(config: Config, folder: Path, reader: str) -> str:
    if reader != "custom":
        return files.tree_identity(folder)
    from mammo_dp.data.readers import custom  # loads numpy

    return custom.identity(table_of(config.dataset, folder))


def _no_data(config: Config, source: str, folder: Any, fault: str) -> str:
    return (
        f"the folder of {source} for dataset={config.dataset.name}, {folder}, {fault}; set dataset.root=FOLDER or "
        f"dataset.sources.{source}.root=FOLDER (README, 'Data and weights', says where the data comes from)"
    )


def _synthetic_images(config: Config, store: Store) -> dict[str, str]:
    folder = synthetic_folder(config)
    try:
        return {"synthetic": files.tree_identity(folder)}
    except FileNotFoundError:
        raise UserError(
            f"the folder of synthetic images, {folder}, does not exist or holds no files; set synthetic.root=FOLDER "
            "(README, 'Data and weights', says where they come from)"
        ) from None


def _classifier_settings(config: Config) -> dict[str, Any]:
    settings = config.classifier.model_dump(exclude={"weights", "init_seed", "cache_features"})
    return settings | {"precision": config.runtime.precision}


def _weights(config: Config, store: Store) -> dict[str, str]:
    classifier = config.classifier
    path = classifier.weights_file
    if path is None:
        random = classifier.weights == "none"
        return {"weights": f"random, seed {classifier.init_seed}" if random else "imagenet"}
    if not path.is_file():
        raise UserError(
            f"classifier.weights={classifier.weights} is not a file; give a .safetensors or .pth file of "
            f"{classifier.backbone}, or classifier.weights=imagenet to download it"
        )
    return {"weights": files.file_identity(path, store.cache)}


def _training_settings(config: Config) -> dict[str, Any]:
    recipe = config.recipe.model_dump()
    privacy: dict[str, Any] = {"epsilon": config.privacy.epsilon}
    if config.privacy.is_private:
        privacy |= config.privacy.model_dump(exclude={"require"}) | {"public_count": config.public_count}
        if config.is_full_batch:
            privacy["accountant"] = "gaussian"  # whichever was asked for
    else:
        del recipe["max_grad_norm"]
        privacy["unit"] = config.privacy.unit  # a patient's images are then averaged
    settings = {
        "experiment": config.experiment.name,
        "recipe": recipe,
        "privacy": privacy,
        "seed": config.seed,
        "dataset": config.dataset.name,
    }
    if config.experiment.uses_synthetic:
        kept = {"val_fraction"} if config.experiment.name == "syn" else set()
        if config.privacy.is_private:  # without noise the two roles are one
            kept |= {"role", "weight"} if config.synthetic.role == "public" else {"role"}
        settings["synthetic"] = config.synthetic.model_dump(include=kept)
    if not config.classifier.cache_features:
        settings["classifier"] = _classifier_settings(config)
    return settings


def _training_inputs(config: Config) -> dict[str, Input]:
    of_synthetic = (("features_of", "synthetic"),)
    inputs = {"patches": Input("extract_patches")}
    if config.experiment.uses_synthetic:
        inputs["synthetic"] = Input("sample_synthetic")
    if config.classifier.cache_features:
        inputs["features"] = Input("extract_features", (("features_of", "patches"),))
        if config.experiment.uses_synthetic:
            inputs["synthetic_features"] = Input("extract_features", of_synthetic)
    return inputs


def _training_label(config: Config) -> str:
    patient = "-patient" if config.privacy.unit == "patient" else ""
    return f"{config.experiment.name}-eps{config.privacy.epsilon:g}{patient}-seed{config.seed}"


def _generator_settings(config: Config) -> dict[str, Any]:
    gan = config.gan.model_dump()
    privacy = gan.pop("privacy")
    if config.gan.privacy.is_private:
        gan["privacy"] = privacy | {"public_count": config.generator_count}
    if config.gan.select != "fid":
        del gan["select_images"]
    runtime = config.runtime.model_dump(include={"precision", "compile", "channels_last"})
    return {"gan": gan, "size": config.patches.size, "runtime": runtime, "dataset": config.dataset.name}


def _generator_inputs(config: Config) -> dict[str, Input]:
    inputs = {"patches": Input("extract_patches")}
    if config.gan.select == "fid":
        inputs["features"] = Input("extract_features", (("features_of", "patches"),))
    return inputs


def _generator_label(config: Config) -> str:
    privacy = config.gan.privacy
    patient = "-patient" if privacy.unit == "patient" else ""
    epsilon = f"-eps{privacy.epsilon:g}{patient}" if privacy.is_private else ""
    return f"{config.dataset.name}-{config.gan.name}{epsilon}-seed{config.gan.seed}"


def _synthetic_settings(config: Config) -> dict[str, Any]:
    kept = {"name", "per_class"}
    if config.synthetic.name == "mcgan":
        kept |= {"seed", "epoch", "swap_labels"}
    else:
        kept |= {"trained_on"}
    return {"synthetic": config.synthetic.model_dump(include=kept), "size": config.patches.size}


def _synthetic_inputs(config: Config) -> dict[str, Input]:
    return {"generator": Input("train_gan")} if config.synthetic.name == "mcgan" else {}


def _evaluation_settings(config: Config) -> dict[str, Any]:
    evaluation = config.evaluation.model_dump(exclude={"inception_weights", "radimagenet_weights"})
    settings: dict[str, Any] = {"evaluation": evaluation}
    if "backbone" in config.evaluation.spaces:
        settings["classifier"] = _classifier_settings(config)
    return settings


def _evaluation_weights(config: Config, store: Store) -> dict[str, str]:
    """Identity of each feature space's weights or library. What is not there is left out of the evaluation."""
    from mammo_dp.metrics import radiomics  # quick to import

    def of(given: str | None) -> str:
        if given is None or not Path(given).is_file():
            return "download" if given == "download" else "absent"
        return files.file_identity(Path(given), store.cache)

    evaluation, classifier = config.evaluation, config.classifier
    named = {"imagenet": "imagenet", "none": f"random, seed {classifier.init_seed}"}
    identities = {
        "backbone": named.get(classifier.weights) or of(str(classifier.weights_file)),
        "inception": of(evaluation.inception_weights),
        "radimagenet": of(evaluation.radimagenet_weights),
        "radiomics": radiomics.installed() or "absent",
    }
    return {space: identities[space] for space in evaluation.spaces}


# --- what is done to private data ---------------------------------------------------------------------------------


def _no_events(config: Config, cache: Cache) -> Iterable[Event]:
    """Nothing that a released model would depend on: no setting and no number here is estimated from the images."""
    return ()


def _generator_events(config: Config, cache: Cache) -> Iterable[Event]:
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
        GENERATOR, effect="shapes_model", mechanism=mechanism, unit=privacy.unit, accountant=privacy.accountant,
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


def _generator_assumptions(config: Config) -> Iterable[str]:
    privacy = config.gan.privacy
    if not privacy.is_private:
        return
    yield (
        f"the size of the generator's training set that noise and steps rest on, N = {config.generator_count}, is "
        "public knowledge"
    )
    if privacy.randomness == "seeded":
        yield SEEDED


def _synthetic_assumptions(config: Config) -> Iterable[str]:
    chosen = config.synthetic.name == "mcgan" and config.synthetic.epoch is not None
    if chosen and config.gan.privacy.is_private:
        yield "synthetic.epoch was chosen without looking at real images or at distances to them"


def _synthetic_events(config: Config, cache: Cache) -> Iterable[Event]:
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


def _evaluation_events(config: Config, cache: Cache) -> Iterable[Event]:
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


def _training_events(config: Config, cache: Cache) -> Iterable[Event]:
    study, private = config.dataset.population, config.privacy.is_private
    common: dict[str, Any] = {"stage": "train_classifier", "study": study}
    if config.experiment.uses_real:
        mechanism = None
        if private:
            from mammo_dp.privacy.planning import private_mechanism  # slow to import

            mechanism = private_mechanism(config, cache)
        yield Event(
            "training of the classifier", cohort="training", effect="shapes_model", mechanism=mechanism,
            unit=config.privacy.unit, adjacency=config.privacy.adjacency, accountant=config.privacy.accountant,
            why="the classifier was trained on these images" + ("" if private else " without differential privacy"),
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
    for cohort in ("validation", "test", *(["external"] if _has_external(config) else [])):
        yield Event(
            "metrics and predictions", cohort=cohort, effect="published",
            why="published metrics and predictions are exact functions of these images", **common,
        )  # fmt: skip


SEEDED = (
    "nobody outside learns or guesses the seed: with it and a suspected data set the noise can be removed"
)
GENERATOR = "training of the generator"


def _training_assumptions(config: Config) -> Iterable[str]:
    yield "the backbone's weights come from data without these patients"
    if not config.privacy.is_private:
        return
    yield f"the size of the training set that noise and steps rest on, N = {config.public_count}, is public knowledge"
    if config.privacy.randomness == "seeded":
        yield SEEDED
    given = config.experiment.uses_synthetic and config.synthetic.name == "release"
    if given and config.synthetic.role == "public":
        yield "the synthetic images are public: their gradients enter without noise"


GENERATOR_GROUPS = ("dataset", "patches", "gan", "privacy", "runtime", "classifier")
TRAINING_GROUPS = (*GENERATOR_GROUPS, "experiment", "recipe", "synthetic", "seed")


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="extract_patches",
            summary="raw mammograms or published patches -> 128x128 mass patches and their index",
            module="mammo_dp.stages.extract_patches",
            version=2,
            groups=("dataset", "patches"),
            label=lambda config: f"{config.dataset.name}-{config.dataset.split}",
            settings=lambda config: {
                "dataset": _dataset_settings(config),
                "patches": config.patches.model_dump(),
            },
            events=_no_events,
            outside=_raw_data,
        ),
        Stage(
            name="train_gan",
            summary="patches -> the generator of MCGAN, private at any finite gan.privacy.epsilon",
            module="mammo_dp.stages.train_gan",
            version=1,
            groups=GENERATOR_GROUPS,
            label=_generator_label,
            settings=_generator_settings,
            events=_generator_events,
            assumptions=_generator_assumptions,
            upstream=_generator_inputs,
            optional=True,
        ),
        Stage(
            name="sample_synthetic",
            summary="synthetic masses of both classes, as patches of the split `synthetic`",
            module="mammo_dp.stages.sample_synthetic",
            version=2,
            groups=(*GENERATOR_GROUPS, "synthetic"),
            label=lambda config: f"{config.synthetic.name}-{config.synthetic.per_class}",
            settings=_synthetic_settings,
            events=_synthetic_events,
            assumptions=_synthetic_assumptions,
            upstream=_synthetic_inputs,
            outside=lambda config, store: (
                _synthetic_images(config, store) if config.synthetic.name == "release" else {}
            ),
            optional=True,
        ),
        Stage(
            name="evaluate_synthetic",
            summary="distances between real and synthetic masses, memorisation -> Fig. 2",
            module="mammo_dp.stages.evaluate_synthetic",
            version=1,
            groups=(*GENERATOR_GROUPS, "synthetic", "evaluation"),
            label=lambda config: f"{config.dataset.name}-{config.synthetic.name}",
            settings=_evaluation_settings,
            events=_evaluation_events,
            upstream=lambda config: {
                "patches": Input("extract_patches"),
                "synthetic": Input("sample_synthetic"),
            },
            outside=_evaluation_weights,
            optional=True,
        ),
        Stage(
            name="extract_features",
            summary="patches -> features of the frozen backbone, for all four flips",
            module="mammo_dp.stages.extract_features",
            version=1,
            groups=(*GENERATOR_GROUPS, "synthetic"),
            label=lambda config: "-".join(
                [
                    config.dataset.name if config.features_of == "patches" else "synthetic",
                    config.classifier.backbone,
                ]
            ),
            settings=lambda config: {"classifier": _classifier_settings(config)},
            events=_no_events,
            upstream=lambda config: {
                "patches": Input("extract_patches" if config.features_of == "patches" else "sample_synthetic")
            },
            outside=_weights,
        ),
        Stage(
            name="train_classifier",
            summary="patches and features -> a benign/malignant classifier, private at any finite epsilon",
            module="mammo_dp.stages.train_classifier",
            version=2,
            groups=TRAINING_GROUPS,
            label=_training_label,
            settings=_training_settings,
            events=_training_events,
            assumptions=_training_assumptions,
            upstream=_training_inputs,
            outside=lambda config, store: {} if config.classifier.cache_features else _weights(config, store),
        ),
        Stage(
            name="report",
            summary="all finished classifiers -> Table 1 beside the paper's, curves, one HTML page",
            module="mammo_dp.stages.report",
            version=3,
            groups=(),
            label=lambda config: "table1",
            settings=lambda config: {},
            events=_no_events,  # beyond those of the runs it collects, which count together
            collects="train_classifier",
        ),
        Stage(
            name="export",
            summary="a finished classifier -> the bundle that may leave the building",
            module="mammo_dp.stages.export",
            version=1,
            groups=(*TRAINING_GROUPS, "export"),
            label=_training_label,
            settings=lambda config: {"accept": sorted(config.export.accept)},
            events=_no_events,
            upstream=lambda config: {"classifier": Input("train_classifier")},
            optional=True,
        ),
    )
}
