"""Every leaf of the configuration changes an artifact's name, or is listed with the reason why it does not.

A leaf that changes a ledger must change the name: an old ledger is then never read under new settings.
"""

import typing
from dataclasses import replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from mammo_dp import pipeline
from mammo_dp.config import Config
from mammo_dp.graph import STAGES
from mammo_dp.pipeline import Node
from mammo_dp.sections import PublicCount, Section
from tests.conftest import config_of

# Leaves that change neither a name nor a ledger of any stage below, and why.
NEITHER = {
    "stage": "names the stage that is asked for",
    "outputs": "where artifacts lie",
    "force": "of the command, not of the result",
    "build_inputs": "of the command, not of the result",
    "dry_run": "of the command, not of the result",
    "dataset.root": "a path: what lies there is hashed as `outside`",
    "dataset.sources": "paths and readers: see dataset.root; readers and roles are hashed by source",
    "dataset.table": "a path: what lies there is hashed as `outside`",
    "pretraining.max_grad_norm": "synpre is not private",
    "dataset.max_skipped": "a limit on failures: what was read is the same",
    "dataset.pseudonyms": "a file of names, hashed with the outside data",
    "dataset.toy": "the phantoms that are written, whose files are hashed as `outside`",
    "classifier.weights": "a file, hashed as `outside`",
    "classifier.init_seed": "of random weights, hashed as `outside`",
    "classifier.cache_features": "the same numbers by another way",
    "synthetic.root": "a path: what lies there is hashed as `outside`",
    "evaluation.inception_weights": "a file, hashed as `outside`",
    "evaluation.radimagenet_weights": "a file, hashed as `outside`",
    "privacy.require": "a check before the run",
    "predict.model": "a file, hashed as `outside`",
    "predict.input": "files, hashed as `outside`",
    "clean.apply": "stage=clean makes no artifact",
    "runtime.device": "where torch computes",
    "runtime.workers": "processes",
    "runtime.threads": "threads of torch",
    "runtime.tensorboard": "a second log",
    "runtime.batch_size": "images a forward pass",
    "runtime.memory_limit": "images at once",
    "runtime.checkpoint_seconds": "when checkpoints are written",
}
# Base configurations: between them every leaf matters somewhere.
BASES = {
    "private": ("recipe=dp_gd", "privacy.epsilon=6", "privacy.unit=patient", "classifier.cache_features=false",
                "classifier.weights=none"),
    "paper": ("recipe=paper", "privacy.epsilon=6", "dataset.split=official"),
    "synthetic": ("experiment=real_syn", "synthetic=mcgan", "recipe=dp_gd", "gan.privacy.epsilon=10",
                  "privacy.epsilon=inf", "synthetic.role=public"),
    "private over synthetic": ("experiment=real_syn", "synthetic=mcgan", "recipe=dp_gd", "gan.privacy.epsilon=10",
                               "privacy.epsilon=6", "synthetic.role=public", "recipe.lr=1"),
    "synthetic alone": ("experiment=syn", "synthetic=mcgan", "privacy.epsilon=inf", "synthetic.val_fraction=0.2"),
    "release": ("experiment=real_syn", "synthetic=release", "synthetic.root=x", "recipe=dp_gd", "privacy.epsilon=6"),
    "synpre": ("experiment=synpre_realft", "synthetic=mcgan", "recipe=dp_gd", "privacy.epsilon=6"),
    "chosen generator": ("gan.select=fid",),
}  # fmt: skip
OF_STAGE = ("extract_patches", "train_gan", "sample_synthetic", "evaluate_synthetic", "extract_features",
            "train_classifier", "audit_privacy", "report", "export", "predict")  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch):
    """Names follow from settings alone here: no data is read, nothing is calibrated for real."""
    for name, stage in STAGES.items():
        monkeypatch.setitem(
            pipeline.STAGES, name, replace(stage, outside=lambda config, store: {}, collects=())
        )
    from mammo_dp.privacy import ledger, planning

    monkeypatch.setattr(planning, "calibrate", _calibrated)
    monkeypatch.setattr(ledger, "compose", _composed)


def _calibrated(*, target, delta, sample_rate, steps, accountant, cache, sensitivity=1.0, section="privacy"):
    from mammo_dp.privacy.events import Mechanism

    noise = 1 + len(accountant) / 100 + 1 / target + delta
    return Mechanism(sample_rate, noise, steps, sensitivity if sample_rate == 1 else 1.0)


def _composed(events, *, unit, delta, images):
    from mammo_dp.privacy.ledger import Bound

    noise = sum(event.mechanism.noise_multiplier for event in events if event.mechanism)
    return Bound(noise + delta + images, 0.5, 0.5, 0.5, None)


@cache
def base(name: str) -> Config:
    return config_of(*BASES[name])


@cache
def base_stands(name: str, stage: str, folder: str) -> Any:
    return stands(base(name), stage, folder)


def leaves(model: BaseModel, prefix: str = "") -> list[str]:
    found = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        inner = isinstance(value, Section) and f"{prefix}{name}" not in NEITHER
        found += leaves(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found


OTHERS = {
    "dataset.public_count": {s: PublicCount(image=900, patient=500) for s in ("official", "paper")},
}


def other(annotation: Any, value: Any) -> Any:
    """Another value of the same type."""
    if get_origin(annotation) is typing.Annotated:
        return other(get_args(annotation)[0], value)
    if get_origin(annotation) in (Union, UnionType):
        kinds = [a for a in get_args(annotation) if a is not NoneType]
        return other(kinds[0], value)
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if isinstance(value, bool) or annotation is bool:
        return not value
    if isinstance(value, Section) or (isinstance(annotation, type) and issubclass(annotation, Section)):
        return None
    if isinstance(value, int) or annotation is int:
        return (value or 1) + 1
    if isinstance(value, float) or annotation is float:
        return 2.5 if value in (None, float("inf")) else value * 0.5 + 0.01
    if isinstance(value, str) or annotation is str:
        return f"{value or ''}x"
    if isinstance(value, list):
        inner = get_args(annotation)[0]
        return [*value[:-1], other(inner, value[-1])] if value else [other(inner, None)]
    if isinstance(value, dict) or value is None:
        return {**(value or {}), "added": 1}
    raise AssertionError(f"no other value of {annotation}")


def changed(config: Any, path: str, whole: str = "") -> Any:
    head, _, rest = path.partition(".")
    value, whole = getattr(config, head), whole or path
    if rest:
        return config.model_copy(update={head: changed(value, rest, whole)})
    given = OTHERS.get(whole) or other(type(config).model_fields[head].annotation, value)
    return config.model_copy(update={head: given})


def stands(config: Config, stage: str, tmp_path) -> tuple[str, dict[str, Any]] | None:
    node = Node.of(config.model_copy(update={"outputs": str(tmp_path), "stage": stage}), stage)
    try:
        return node.fp8, node.ledger().to_dict()
    except Exception:  # a combination that validation refuses
        return None


def moved(path: str, tmp_path) -> tuple[bool, list[str]]:
    """Whether a leaf changes some name; and the stages whose ledger it changes under the same name."""
    renames, stale = False, []
    for name in BASES:
        config = base(name)
        try:
            altered = changed(config, path)
        except (AttributeError, AssertionError):
            continue
        for stage in OF_STAGE:
            before, after = base_stands(name, stage, str(tmp_path)), stands(altered, stage, tmp_path)
            if before is None or after is None:
                continue
            renames = renames or before[0] != after[0]
            if before[0] == after[0] and _without_artifacts(before[1]) != _without_artifacts(after[1]):
                stale.append(f"{name}: {stage}")
    return renames, stale


def _without_artifacts(ledger: dict[str, Any]) -> dict[str, Any]:
    events = [{k: v for k, v in event.items() if k != "artifact"} for event in ledger["events"]]
    return {**ledger, "events": events}


@pytest.fixture(scope="module")
def tmp_path(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize("path", leaves(config_of()))
def test_every_leaf_changes_a_name_or_has_a_reason(path, tmp_path):
    renames, stale = moved(path, tmp_path)
    assert not stale, f"{path} changes the ledger of an artifact that keeps its name: {stale}"
    listed = path in NEITHER or any(path.startswith(f"{key}.") for key in NEITHER)
    assert renames or listed, f"{path} changes nothing: name it in NEITHER with the reason"
    assert not (
        renames and path in NEITHER and path not in ("dataset.sources", "classifier.cache_features")
    ), f"{path} changes a name: it does not belong into NEITHER"


def test_a_forgotten_leaf_is_found(tmp_path, monkeypatch):
    """Negative control: without the population among the settings, an old ledger would be read under a new name."""
    from mammo_dp.graph import settings

    own = settings.training_settings
    stage = replace(
        pipeline.STAGES["train_classifier"],
        settings=lambda config: {k: v for k, v in own(config).items() if k != "population"},
    )
    monkeypatch.setitem(pipeline.STAGES, "train_classifier", stage)
    base_stands.cache_clear()
    assert "private: train_classifier" in moved("dataset.population", tmp_path)[1]
    base_stands.cache_clear()
