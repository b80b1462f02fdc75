"""`stage=train_classifier`: train a head on frozen features, test it, and record what the privacy cost."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from mammo_dp.artifacts import Artifact, Output, StageResult, Store
from mammo_dp.config import Config
from mammo_dp.data import synthetic
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.errors import UserError
from mammo_dp.files import Cache, digest, sha256, to_json
from mammo_dp.metrics.classification import binary_metrics
from mammo_dp.models.classifier import build_body, build_head, feature_size
from mammo_dp.privacy.accounting import epsilon
from mammo_dp.privacy.loss_distribution import cross_check, group_epsilon
from mammo_dp.privacy.planning import Plan, make_plan, private_mechanism
from mammo_dp.privacy.record import mechanism_record
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.stages.extract_features import FEATURES
from mammo_dp.training import device as devices
from mammo_dp.training.classifier import HeadTrainer, PublicSet, predict, train
from mammo_dp.training.features import CachedFeatures, FeatureSource, ImageFeatures, encoder
from mammo_dp.training.units import check_both_classes, units_of

WEIGHTS = "head.safetensors"
PREDICTIONS = "predictions.csv"


def check(config: Config) -> None:
    """Refuse a device that is not there, a claim that two accountants do not agree on, and weights that do not fit."""
    devices.prepare(config.runtime)
    if config.privacy.is_private:
        cache = Store(Path(config.outputs)).cache
        cross_check(private_mechanism(config, cache), delta=config.privacy.delta, cache=cache)
    if not config.classifier.cache_features:
        build_body(config.classifier)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    device = devices.prepare(config.runtime)
    patches = PatchSet.load(inputs["patches"])
    if config.experiment.uses_synthetic:
        patches = patches.joined(PatchSet.load(inputs["synthetic"]))
    source, width = _features(config, patches, inputs, device)
    units, public = training_units(patches, config)
    plan = make_plan(config, units=len(units), cache=output.cache)
    record = mechanism_record(
        config.privacy, plan, adjacency=config.privacy.adjacency, max_grad_norm=config.recipe.max_grad_norm,
        cache=output.cache,
    )  # fmt: skip
    if plan.mechanism is not None:
        record["warnings"] = config.warnings
    trainer = HeadTrainer(
        build_head(config.recipe, features=width, seed=config.seed),
        source,
        units,
        torch.from_numpy(patches.malignant),
        plan=plan,
        recipe=config.recipe,
        randomness=Randomness(
            secure=config.privacy.is_private and config.privacy.randomness == "secure",
            seed=config.seed,
            run=_run_identity(inputs, output),
        ),
        device=device,
        public=public,
    )

    def scores(rows: np.ndarray) -> np.ndarray:
        return predict(trainer.head, source, rows, test_flips=config.recipe.test_flips)

    validate = None
    if config.recipe.select == "best_val":
        validation = _validation_rows(patches, config)
        validate = lambda: (patches.malignant[validation], scores(validation))  # noqa: E731
    train(trainer, output=output, checkpoint_seconds=config.runtime.checkpoint_seconds, validate=validate)

    state, step = trainer.selected()
    trainer.head.load_state_dict(state)
    # one entry only: the library writes several in no fixed order, and equal runs must give equal bytes
    metadata = {"model": to_json(model_record(config, width))}
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, output.folder / WEIGHTS, metadata=metadata)
    metrics = _evaluate(patches, scores, output)
    metrics["training"] = _training_record(config, plan, step)
    images = _images_per_patient(patches, config)
    return StageResult(
        metrics=metrics,
        summary=_summary(metrics),
        manifest={
            "privacy": record | _per_patient(config, plan, images, cache=output.cache),
            "device": devices.describe(device),
        },
        most_images=max(images, default=None),
        release=sha256(output.folder / WEIGHTS),
    )


def _run_identity(inputs: Mapping[str, Artifact], output: Output) -> str:
    """Of data and settings, so that no two different runs share noise, and equal runs do. 64 hex digits."""
    return digest({"run": output.identity, "inputs": {role: a.content_digest for role, a in inputs.items()}})


def _features(
    config: Config, patches: PatchSet, inputs: Mapping[str, Artifact], device: torch.device
) -> tuple[FeatureSource, int]:
    """Where features come from, and how long a feature vector is."""
    normalize = config.recipe.normalize_features
    tables = [role for role in ("features", "synthetic_features") if role in inputs]
    if tables:
        table = torch.cat([load_file(inputs[role].path(FEATURES))["features"] for role in tables]).to(device)
        return CachedFeatures(table, normalize=normalize), table.shape[-1]
    body = build_body(config.classifier)
    encode = encoder(body, device, precision=config.runtime.precision)
    source = ImageFeatures(
        patches.images, encode, config.classifier, normalize=normalize, batch_size=config.runtime.batch_size
    )
    return source, feature_size(body)


def training_units(patches: PatchSet, config: Config) -> tuple[Units, PublicSet | None]:
    """The units of privacy of the training set, and the synthetic images that enter without noise.

    Raises UserError if a class is missing, or a patient id where patients are the unit.
    """
    real = patches.rows("train") if config.experiment.uses_real else np.empty(0, dtype=np.int64)
    made = _synthetic_rows(patches, config, held_out=False)
    check_both_classes(patches, np.concatenate([real, made]), dataset=config.dataset.name)
    public = None
    if config.synthetic.role == "public" and config.privacy.is_private and len(made):
        public, made = PublicSet(Units.of_each(made), config.synthetic.weight), made[:0]
    positions = np.concatenate([real, made])
    return units_of(patches, positions, unit=config.privacy.unit, setting="privacy.unit"), public


def _synthetic_rows(patches: PatchSet, config: Config, *, held_out: bool) -> np.ndarray:
    """Positions of the synthetic images to train on, or of those held out for choosing an epoch."""
    rows = patches.rows(synthetic.SOURCE)
    if config.experiment.uses_real or config.recipe.select != "best_val":
        return rows[:0] if held_out else rows
    fraction = config.synthetic.val_fraction
    names = patches.index["patient"].to_numpy()[rows]
    chosen = np.array([synthetic.is_held_out(name, fraction=fraction) for name in names], dtype=bool)
    return rows[chosen == held_out]


def _validation_rows(patches: PatchSet, config: Config) -> np.ndarray:
    on_real = config.validates_on_real
    rows = patches.rows("val") if on_real else _synthetic_rows(patches, config, held_out=True)
    if not 0 < patches.malignant[rows].sum() < len(rows):
        whose = "this dataset" if on_real else "the held-out part of the synthetic images"
        raise UserError(
            f"recipe.select=best_val needs validation patches of both classes and {whose} has none; use "
            f"recipe.select=last or recipe.select=average{'' if on_real else ', or a larger synthetic.val_fraction'}"
        )
    return rows


def _images_per_patient(patches: PatchSet, config: Config) -> list[int]:
    """Numbers of real training images of each patient, sorted; empty unless all patients are known. Private."""
    if not config.experiment.uses_real:
        return []
    patients = patches.patients[patches.rows("train")]
    if (patients == "").any():
        return []
    return sorted(np.unique(patients, return_counts=True)[1].tolist())


def _evaluate(patches: PatchSet, scores: Any, output: Output) -> dict[str, Any]:
    """Score every validation and test patch, write predictions.csv, and return metrics by split and source."""
    metrics: dict[str, Any] = {}
    tables = []
    for split in ("val", "test"):
        metrics[split] = {}
        for source in dict.fromkeys(patches.index["source"]):
            rows = patches.rows(split, source)
            if not len(rows):
                continue
            p_malignant = scores(rows)
            metrics[split][source] = binary_metrics(patches.malignant[rows], p_malignant)
            table = patches.index.iloc[rows][["patch", "source", "split", "patient", "malignant"]]
            tables.append(table.assign(p_malignant=p_malignant))
    columns = ["patch", "source", "split", "patient", "malignant", "p_malignant"]
    pd.concat(tables or [pd.DataFrame(columns=pd.Index(columns))]).to_csv(
        output.folder / PREDICTIONS, index=False, float_format="%.9g"
    )
    return metrics


def model_record(config: Config, features: int) -> dict[str, Any]:
    """What is needed to use the weights: how inputs are made, which body, which head."""
    return {
        "features": features,
        "patches": config.patches.model_dump(),
        "classifier": config.classifier.model_dump(exclude={"weights", "cache_features"}),
        "recipe": config.recipe.model_dump(include={"head", "hidden", "normalize_features", "test_flips"}),
    }


def _training_record(config: Config, plan: Plan, step: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "steps": plan.steps,
        "selected_step": step,
        "selected_epoch": step // plan.steps_per_epoch,
    }
    if plan.mechanism is not None:
        partial = replace(plan.mechanism, steps=step)
        record["epsilon_at_selected_epoch"] = epsilon(
            partial, delta=config.privacy.delta, accountant=config.privacy.accountant
        )
    return record


def _per_patient(config: Config, plan: Plan, images: list[int], *, cache: Cache) -> dict[str, Any]:
    """An image-level guarantee re-read for the patient with the most training images and for the median one."""
    mechanism, delta = plan.mechanism, config.privacy.delta
    if mechanism is None or config.privacy.unit == "patient" or not images:
        return {}
    readings = {"most": images[-1], "median": images[len(images) // 2]}
    return {
        "per_patient": {
            name: {"images": k, "epsilon": group_epsilon(mechanism, images=k, delta=delta, cache=cache)}
            for name, k in readings.items()
        }
    }


def _summary(metrics: dict[str, Any]) -> str:
    parts = [
        f"{source} AUROC {m['auroc']:.3f} AUPRC(benign) {m['auprc_benign']:.3f} (n={m['n']})"
        for source, m in metrics["test"].items()
        if m["auroc"] is not None
    ]
    return "; ".join(parts) or "no test patches of both classes"
