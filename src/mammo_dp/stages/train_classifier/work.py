"""`stage=train_classifier`: train a head, or every parameter, test it, and record what the privacy cost."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from mammo_dp.config import Config
from mammo_dp.config.rules import warnings
from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Artifact, Output, StageResult, Store
from mammo_dp.files import Cache, digest, sha256, to_json
from mammo_dp.metrics.performance import performance
from mammo_dp.models.backbone import build_backbone
from mammo_dp.models.bundle import BACKBONE, HEAD, model_record, released_settings, weights_name
from mammo_dp.models.features import check_backbone
from mammo_dp.models.preparation import PREPARATION, record_of
from mammo_dp.privacy import accounting
from mammo_dp.privacy.loss_distribution import cross_check, group_epsilon
from mammo_dp.privacy.noise import randomness_notes
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.reporting.model_card import model_card
from mammo_dp.rounding import rounded_up
from mammo_dp.training import device as devices
from mammo_dp.training.build import Scores, Task, start
from mammo_dp.training.optimizers import check_optimizer
from mammo_dp.training.plans import Plan, make_plan, mechanism_record, private_mechanism
from mammo_dp.training.risk import RISK, risk_table, spread
from mammo_dp.training.selection import State
from mammo_dp.training.trainer import train
from mammo_dp.training.units import training_patches, training_units, validation_rows

PREDICTIONS = "predictions.csv"
CARD = "README.md"


def check(config: Config) -> None:
    """Refuse a device that is not there, a claim that two accountants do not agree on, and weights that do not fit."""
    devices.prepare(config.runtime)
    check_optimizer(config.recipe)
    check_backbone(config.classifier)
    if config.privacy.is_private:
        cache = Store.of(config).cache
        cross_check(private_mechanism(config, cache), delta=config.privacy.delta, cache=cache)
    if not config.reads_features and not config.experiment.continues_synpre:
        build_backbone(config.classifier)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    device = devices.prepare(config.runtime)
    patches = training_patches(inputs)
    units, public = training_units(patches, config)
    plan = make_plan(config, units=len(units), cache=output.cache)
    randomness = Randomness(
        secure=config.privacy.is_private and config.privacy.randomness == "secure",
        seed=config.seed,
        run=_run_identity(config, inputs, output),
    )
    task = Task(config, patches, units, public, plan, randomness, device)
    trainer, scores = start(task, inputs)
    noise = trainer.optimizer.noise if trainer.optimizer else None
    record = mechanism_record(
        config.privacy, plan, adjacency=config.privacy.adjacency, max_grad_norm=config.recipe.max_grad_norm,
        sampler=noise.sampler if noise else None, cache=output.cache,
    )  # fmt: skip
    choose = None
    if config.recipe.select == "best_val":
        validation = validation_rows(patches, config)
        choose = trainer.best_val(lambda: (patches.malignant[validation], scores(validation)))
    train(trainer, output=output, checkpoint_seconds=config.runtime.checkpoint_seconds, after_epoch=choose)

    state, step = trainer.selection.selected()
    trainer.selection.network.load_state_dict(state)
    weights = _save(state, config, inputs, output)
    metrics = _evaluate(patches, scores, output)
    metrics["training"] = _training_record(config, plan, step)
    if plan.mechanism is not None:
        record["warnings"] = warnings(config)
        table = risk_table(task, trainer.individual, spent=record["epsilon_spent"])
        table.to_csv(output.folder / RISK, index=False, float_format="%.6g")
        metrics["individual_mu"] = spread(table["mu"].to_numpy())
    images = _images_per_patient(patches, config)
    privacy = record | _per_patient(config, plan, images, cache=output.cache)
    return StageResult(
        metrics=metrics,
        summary=_summary(metrics),
        manifest={
            "privacy": privacy,
            "device": devices.describe(device),
            "backbone": _backbone(config, output.cache),
            **_continues(inputs),
        },
        most_images=max(images, default=None),
        assumptions=randomness_notes(noise),
        release=weights,
    )


def describe(config: Config, result: StageResult, ledger: Mapping[str, Any], output: Output) -> None:
    """Write the model card of the run, for its owner."""
    spent = (ledger["headline"] or {"epsilon": 0.0})["epsilon"]
    card = model_card(
        released_settings(config, output.cache) | record_of(output.folder),
        statement=ledger["statement"],
        bundle=False,
        epsilon="unknown" if spent is None else rounded_up(spent, digits=4),
        test=result.metrics["test"],
    )
    (output.folder / CARD).write_text(card)


def _save(state: State, config: Config, inputs: Mapping[str, Artifact], output: Output) -> str:
    """Write the head, and the backbone where it was trained, and return what tells these weights from any others."""
    parts = {HEAD: state}
    if config.classifier.trains_backbone:
        parts = {
            name: {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
            for name, prefix in ((HEAD, "head."), (BACKBONE, "backbone."))
        }
    # one entry only: the library writes several in no fixed order, and equal runs must give equal bytes
    if "preparation" in inputs:
        shutil.copyfile(inputs["preparation"].path(PREPARATION), output.folder / PREPARATION)
    metadata = {"model": to_json(model_record(config, output.cache, folder=output.folder))}
    for name, tensors in parts.items():
        save_file(
            {k: v.cpu().contiguous() for k, v in tensors.items()}, output.folder / name, metadata=metadata
        )
    return digest([sha256(output.folder / name) for name in parts])


def _backbone(config: Config, cache: Cache) -> dict[str, Any]:
    """The backbone that the run, or the synpre before it, started from."""
    classifier = config.classifier
    return {
        "label": classifier.label,
        "weights": weights_name(classifier, cache),
        "settings": classifier.backbone_settings,
        "precision": config.runtime.precision,
    }


def _continues(inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """How synpre was trained, without its seed, where this run continues it."""
    if "backbone" not in inputs:
        return {}
    before = inputs["backbone"].manifest
    settings = {key: value for key, value in before["settings"].items() if key != "seed"}
    read = {role: record["fingerprint"] for role, record in before["inputs"].items()}
    return {"continues": {"settings": settings, "inputs": read}}


def _run_identity(config: Config, inputs: Mapping[str, Artifact], output: Output) -> str:
    """Of data and settings, so that no two different runs share noise, and equal runs do. 64 hex digits.

    Of a run on synthetic images alone, nothing but these and how they are trained on: batches drawn from the content
    of real patches would let its weights tell one training set from another.
    """
    content = {role: artifact.content_digest for role, artifact in inputs.items()}
    if config.experiment.uses_real:
        return digest({"run": output.identity, "inputs": content})
    how = {
        "experiment": config.experiment.name,
        "recipe": config.recipe.model_dump(),
        "backbone": _backbone(config, output.cache),
    }
    return digest({"run": how, "inputs": {r: c for r, c in content.items() if r.startswith("synthetic")}})


def _images_per_patient(patches: PatchSet, config: Config) -> list[int]:
    """Numbers of real training images of each patient, sorted; empty unless all patients are known. Private."""
    if not config.experiment.uses_real:
        return []
    patients = patches.patients[patches.rows("train")]
    if (patients == "").any():
        return []
    return sorted(np.unique(patients, return_counts=True)[1].tolist())


def _evaluate(patches: PatchSet, scores: Scores, output: Output) -> dict[str, Any]:
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
            index = patches.index.iloc[rows]
            metrics[split][source] = performance(index, patches.patients[rows], p_malignant)
            table = index[["patch", "source", "split", "patient", "lesion", "malignant"]]
            tables.append(table.assign(p_malignant=p_malignant))
    columns = ["patch", "source", "split", "patient", "lesion", "malignant", "p_malignant"]
    pd.concat(tables or [pd.DataFrame(columns=pd.Index(columns))]).to_csv(
        output.folder / PREDICTIONS, index=False, float_format="%.17g"
    )
    return metrics


def _training_record(config: Config, plan: Plan, step: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "steps": plan.steps,
        "selected_step": step,
        "selected_epoch": step // plan.steps_per_epoch,
    }
    if plan.mechanism is not None:
        partial = replace(plan.mechanism, steps=step)
        record["epsilon_at_selected_epoch"] = accounting.epsilon(
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
