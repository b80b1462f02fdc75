"""For each stage: the settings that change its result, what it reads, and the label of its folder."""

from typing import Any

from mammo_dp.config import Config
from mammo_dp.graph.stage import Input
from mammo_dp.sections import Classifier, Experiment


def dataset_settings(config: Config) -> dict[str, Any]:
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


def classifier_settings(config: Config) -> dict[str, Any]:
    return config.classifier.body_settings | {"precision": config.runtime.precision}


def feature_settings(config: Config) -> dict[str, Any]:
    settings: dict[str, Any] = {"classifier": classifier_settings(config)}
    if config.classifier.trainable == "norm_head":
        settings["last_norm"] = "without scale and shift"
    return settings


def feature_label(config: Config) -> str:
    whose = config.dataset.name if config.features_of == "patches" else "synthetic"
    after = f"-synpre-seed{config.seed}" if config.experiment.continues_synpre else ""
    return f"{whose}-{config.classifier.label}{after}"


def feature_inputs(config: Config) -> dict[str, Input]:
    inputs = {"patches": Input("extract_patches" if config.features_of == "patches" else "sample_synthetic")}
    return inputs | body_input(config)


def body_input(config: Config) -> dict[str, Input]:
    """The run synpre that another setup goes on from."""
    if not config.experiment.continues_synpre:
        return {}
    before = config.synpre
    changed = ("experiment", "recipe", "classifier", "privacy")
    return {"body": Input("train_classifier", tuple((key, getattr(before, key)) for key in changed))}


def training_settings(config: Config) -> dict[str, Any]:
    recipe = config.recipe.model_dump()
    privacy: dict[str, Any] = {"epsilon": config.privacy.epsilon}
    if config.privacy.is_private:
        privacy |= config.privacy.model_dump(exclude={"require"}) | {"public_count": config.public_count}
        if config.is_full_batch:
            privacy["accountant"] = "gaussian"  # whichever was asked for
    else:
        del recipe["max_grad_norm"]
        if config.experiment.uses_real:
            privacy["unit"] = config.privacy.unit  # a patient's images are then averaged
    settings = {
        "experiment": config.experiment.name,
        "recipe": recipe,
        "privacy": privacy,
        "seed": config.seed,
        "dataset": config.dataset.name,
        "population": config.dataset.population,
    }
    if config.trains_gan and config.gan.privacy.is_private:
        settings["ledger"] = ledger_settings(config)  # the classifier itself may have no mechanism
    if config.experiment.uses_synthetic:
        kept = set()
        if not config.experiment.uses_real and config.recipe.select == "best_val":
            kept = {"validation"} if config.validates_on_real else {"validation", "val_fraction"}
        if config.privacy.is_private:  # without noise the two roles are one
            kept |= {"role", "weight"} if config.synthetic.role == "public" else {"role"}
        settings["synthetic"] = config.synthetic.model_dump(include=kept)
    if config.classifier.trainable != "head":
        settings["trainable"] = config.classifier.trainable
    if not config.reads_features:
        settings["classifier"] = classifier_settings(config)
        if not config.classifier.trains_body:
            settings["classifier"]["body_mode"] = config.classifier.body_mode
    return settings


def training_inputs(config: Config) -> dict[str, Input]:
    of_synthetic = (("features_of", "synthetic"),)
    inputs = {"patches": Input("extract_patches"), **body_input(config)}
    if config.experiment.uses_synthetic:
        inputs["synthetic"] = Input("sample_synthetic")
    if config.reads_features:
        inputs["features"] = Input("extract_features", (("features_of", "patches"),))
        if config.experiment.uses_synthetic:
            inputs["synthetic_features"] = Input("extract_features", of_synthetic)
    return inputs


def training_label(config: Config) -> str:
    patient = "-patient" if config.privacy.unit == "patient" and config.experiment.uses_real else ""
    return f"{config.experiment.name}-eps{config.privacy.epsilon:g}{patient}-seed{config.seed}"


def audit_label(config: Config) -> str:
    fraction = config.audit.noise_fraction
    return training_label(config) + (f"-noise{fraction:g}" if fraction != 1 else "")


def ledger_settings(config: Config) -> dict[str, Any]:
    """What a ledger says beside the mechanisms: whose patients they are, and what it is read at."""
    return {
        "population": config.dataset.population,
        "unit": config.privacy.unit,
        "delta": config.privacy.delta,
    }


def generator_settings(config: Config) -> dict[str, Any]:
    gan = config.gan.model_dump()
    privacy = gan.pop("privacy")
    if config.gan.privacy.is_private:
        gan["privacy"] = privacy | {"public_count": config.generator_count}
    if config.gan.select != "fid":
        del gan["select_images"]
    runtime = config.runtime.model_dump(include={"precision", "compile", "channels_last"})
    return {
        "gan": gan,
        "size": config.patches.size,
        "runtime": runtime,
        "dataset": config.dataset.name,
        "population": config.dataset.population,
    }


def generator_inputs(config: Config) -> dict[str, Input]:
    inputs = {"patches": Input("extract_patches")}
    if config.gan.select == "fid":
        # features of the backbone as it was given, whatever setup the generator is for: synpre would rest on itself
        own = (
            ("features_of", "patches"),
            ("experiment", Experiment(name="real")),
            ("classifier", _plain(config)),
        )
        inputs["features"] = Input("extract_features", own)
    return inputs


def _plain(config: Config) -> Classifier:
    return config.classifier.model_copy(update={"trainable": "head", "body_mode": "eval", "features": "last"})


def generator_label(config: Config) -> str:
    privacy = config.gan.privacy
    patient = "-patient" if privacy.unit == "patient" else ""
    epsilon = f"-eps{privacy.epsilon:g}{patient}" if privacy.is_private else ""
    return f"{config.dataset.name}-{config.gan.name}{epsilon}-seed{config.gan.seed}"


def synthetic_settings(config: Config) -> dict[str, Any]:
    kept = {"name", "per_class"}
    if config.synthetic.name == "mcgan":
        kept |= {"seed", "epoch", "swap_labels"}
    else:
        kept |= {"trained_on"}
    return {"synthetic": config.synthetic.model_dump(include=kept), "size": config.patches.size}


def synthetic_inputs(config: Config) -> dict[str, Input]:
    return {"generator": Input("train_gan")} if config.synthetic.name == "mcgan" else {}


def evaluation_settings(config: Config) -> dict[str, Any]:
    evaluation = config.evaluation.model_dump(exclude={"inception_weights", "radimagenet_weights"})
    settings: dict[str, Any] = {"evaluation": evaluation, "population": config.dataset.population}
    if "backbone" in config.evaluation.spaces:
        settings["classifier"] = classifier_settings(config)
    return settings
