"""`stage=train_classifier`: train a head on frozen features, test it, and record what the privacy cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from mammo_dp.artifacts import Artifact, Cache, Output, StageResult, file_identity, fingerprint, to_json
from mammo_dp.config import Config
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.errors import UserError
from mammo_dp.metrics.classification import binary_metrics
from mammo_dp.models.classifier import build_body, build_head, feature_size
from mammo_dp.privacy.accounting import Mechanism, epsilon
from mammo_dp.stages.extract_features import FEATURES
from mammo_dp.training import device as devices
from mammo_dp.training.classifier import HeadTrainer, Plan, make_plan, predict, train
from mammo_dp.training.features import CachedFeatures, FeatureSource, ImageFeatures, encoder

WEIGHTS = "head.safetensors"
PREDICTIONS = "predictions.csv"


def check(config: Config) -> None:
    """Refuse a device that is not there, and weights that do not fit where the body runs at every step."""
    devices.prepare(config.runtime)
    if not config.classifier.cache_features:
        build_body(config.classifier)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    device = devices.prepare(config.runtime)
    patches = PatchSet.load(inputs["patches"])
    source, width = _features(config, patches, inputs, device)
    positions = _training_positions(patches, config)
    plan = make_plan(config, records=len(positions), cache=output.cache)
    head = build_head(config.recipe, features=width, seed=config.seed)
    labels = torch.from_numpy(patches.malignant[positions])
    trainer = HeadTrainer(
        head,
        source,
        positions,
        labels,
        plan=plan,
        recipe=config.recipe,
        seed=config.seed,
        run=_run_identity(config, inputs["patches"], plan, output.cache),
        device=device,
    )

    def scores(rows: np.ndarray) -> np.ndarray:
        return predict(trainer.head, source, rows, test_flips=config.recipe.test_flips)

    validate = None
    if config.recipe.select == "best_val":
        validation = patches.rows("val")
        if not 0 < patches.malignant[validation].sum() < len(validation):
            raise UserError(
                "recipe.select=best_val needs validation patches of both classes and this dataset has none; "
                "use recipe.select=last or recipe.select=average"
            )
        validate = lambda: (patches.malignant[validation], scores(validation))  # noqa: E731
    train(trainer, output=output, checkpoint_seconds=config.runtime.checkpoint_seconds, validate=validate)

    state, step = trainer.selected()
    trainer.head.load_state_dict(state)
    # one entry only: the library writes several in no fixed order, and equal runs must give equal bytes
    metadata = {"model": to_json(_model_record(config, width))}
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, output.folder / WEIGHTS, metadata=metadata)
    metrics = _evaluate(patches, scores, output)
    metrics["training"] = _training_record(config, plan, step)
    return StageResult(
        metrics=metrics,
        summary=_summary(metrics),
        manifest={"privacy": privacy_record(config, plan), "device": devices.describe(device)},
    )


def _run_identity(config: Config, patches: Artifact, plan: Plan, cache: Cache) -> str:
    """Of data and settings, so that no two different runs share noise; where features come from does not count."""
    weights = config.classifier.weights_file
    return fingerprint(
        {
            "patches": patches.manifest["fingerprint"],
            "experiment": config.experiment.name,
            "classifier": config.classifier.model_dump(exclude={"weights", "cache_features"}),
            "weights": config.classifier.weights if weights is None else file_identity(weights, cache),
            "precision": config.runtime.precision,
            "recipe": config.recipe.model_dump(),
            "privacy": config.privacy.model_dump(),
            "public_count": plan.public_count if plan.mechanism else None,
        }
    )


def _features(
    config: Config, patches: PatchSet, inputs: Mapping[str, Artifact], device: torch.device
) -> tuple[FeatureSource, int]:
    """Where features come from, and how long a feature vector is."""
    normalize = config.recipe.normalize_features
    if "features" in inputs:
        table = load_file(inputs["features"].path(FEATURES))["features"].to(device)
        return CachedFeatures(table, normalize=normalize), table.shape[-1]
    body = build_body(config.classifier)
    encode = encoder(body, device, precision=config.runtime.precision)
    source = ImageFeatures(
        patches.images, encode, config.classifier, normalize=normalize, batch_size=config.runtime.batch_size
    )
    return source, feature_size(body)


def _training_positions(patches: PatchSet, config: Config) -> np.ndarray:
    positions = patches.rows("train")
    malignant = patches.malignant[positions].sum()
    if not 0 < malignant < len(positions):
        raise UserError(
            f"dataset={config.dataset.name} has {len(positions)} training patches, {malignant} of them malignant; "
            "both classes are needed in the training split"
        )
    return positions


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


def _model_record(config: Config, features: int) -> dict[str, Any]:
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
        partial = Mechanism(plan.mechanism.sample_rate, plan.mechanism.noise_multiplier, step)
        record["epsilon_at_selected_epoch"] = epsilon(
            partial, delta=config.privacy.delta, accountant=config.privacy.accountant
        )
    return record


def privacy_record(config: Config, plan: Plan) -> dict[str, Any]:
    """What the manifest says of privacy.

    The spent epsilon is that of the whole run even where an earlier epoch was selected: the choice looked at all of
    them. `selection` names what else was looked at.
    """
    privacy = config.privacy
    if plan.mechanism is None:
        return {"unit": privacy.unit, "epsilon": float("inf"), "epsilon_spent": float("inf")}
    selected = config.recipe.select == "best_val"
    return {
        "unit": privacy.unit,
        "adjacency": "add_remove",
        "epsilon": privacy.epsilon,
        "epsilon_spent": epsilon(plan.mechanism, delta=privacy.delta, accountant=privacy.accountant),
        "delta": privacy.delta,
        "noise_multiplier": plan.mechanism.noise_multiplier,
        "sample_rate": plan.mechanism.sample_rate,
        "steps": plan.mechanism.steps,
        "accountant": plan.mechanism.accountant(privacy.accountant),
        "max_grad_norm": config.recipe.max_grad_norm,
        "public_count": plan.public_count,
        "randomness": "seeded: whoever knows the seed can remove the noise",
        "selection": "epoch chosen on validation images, which have no guarantee" if selected else "none",
        "protects": "training patches, one at a time (a mammogram with several masses gives several patches); "
        "validation and test images enter published metrics",
        "warnings": config.warnings,
    }


def _summary(metrics: dict[str, Any]) -> str:
    parts = [
        f"{source} AUROC {m['auroc']:.3f} AUPRC(benign) {m['auprc_benign']:.3f} (n={m['n']})"
        for source, m in metrics["test"].items()
        if m["auroc"] is not None
    ]
    return "; ".join(parts) or "no test patches of both classes"
