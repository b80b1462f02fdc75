"""Every leaf of the configuration changes an artifact's name, or is listed with the reason why it does not.

A leaf that changes a ledger must change the name: an old ledger is then never read under new settings.
"""

import typing
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from mammo_dp.config import Config
from mammo_dp.config.schema import Public, PublicCount, Section
from mammo_dp.engine.build import Node
from mammo_dp.engine.fingerprint import _covers, settings
from mammo_dp.stages import STAGES
from mammo_dp.stages.predict import Predict
from mammo_dp.stages.train_classifier import TrainClassifier
from tests.conftest import config_of

pytestmark = pytest.mark.slow

# Leaves that no stage uses, and why. What a stage uses and ignores, it ignores with a reason of its own.
NEITHER = {
    "stage": "names the stage that is asked for",
    "outputs": "where artifacts lie",
    "force": "of the command, not of the result",
    "build_inputs": "of the command, not of the result",
    "dry_run": "of the command, not of the result",
    "pretraining.max_grad_norm": "synpre is not private",
    "clean.apply": "stage=clean makes no artifact",
    "launcher": "where runs are started",
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
    "public patches": ("public=patches", "public.root=x", "public.population=y", "privacy.epsilon=6"),
    "public mammograms": ("public=mammograms", "public.root=x", "public.population=y", "privacy.epsilon=6"),
    "public data set": ("public=toy", "privacy.epsilon=6"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch):
    """Names follow from settings alone here: no data is read, nothing is calibrated for real."""
    for stage in STAGES.values():
        monkeypatch.setattr(type(stage), "external", lambda self, config, store: {})
        monkeypatch.setattr(type(stage), "collects", ())
    from mammo_dp.privacy import ledger
    from mammo_dp.training import plans

    monkeypatch.setattr(plans, "calibrate", _calibrated)
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
    return stands(placed(base(name), folder), stage, {})


def placed(config: Config, folder: Any) -> Config:
    return config.model_copy(update={"outputs": str(folder), "stage": "train_classifier"})


def leaves(model: BaseModel, prefix: str = "") -> list[str]:
    found = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        inner = isinstance(value, Section) and name != "toy"
        found += leaves(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found


OTHERS = {
    "public": Public(name="others", population="others", root="x"),
    "public.dataset.public_count": {"official": PublicCount(image=900, patient=500)},
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


def stands(config: Config, stage: str, siblings: dict[str, Node]) -> tuple[str, dict[str, Any]] | None:
    """The fingerprint and the ledger; None where a stage refuses the combination."""
    node = Node(STAGES[stage], config, STAGES, siblings)
    try:
        return node.fp8, node.ledger().to_dict()
    except Exception:
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
        altered, siblings = placed(altered, tmp_path), {}
        for stage in STAGES:
            before, after = base_stands(name, stage, str(tmp_path)), stands(altered, stage, siblings)
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


@pytest.mark.parametrize("path", dict.fromkeys([*leaves(config_of()), *leaves(config_of("public=toy"))]))
def test_every_leaf_changes_a_name_or_has_a_reason(path, tmp_path):
    renames, stale = moved(path, tmp_path)
    assert not stale, f"{path} changes the ledger of an artifact that keeps its name: {stale}"
    listed = next((key for key in NEITHER if path == key or path.startswith(f"{key}.")), None)
    assert renames or listed or ignored(path), f"{path} changes nothing: name it in NEITHER with the reason"
    assert not (renames and listed), f"{path} changes a name: it does not belong into NEITHER"


def ignored(path: str) -> bool:
    """Whether a stage that uses a leaf ignores it, with a reason, under some base."""
    found = [
        (stage, base(name))
        for stage in STAGES.values()
        for name in BASES
        if "public" not in stage.name or base(name).public is not None
    ]
    return any(_covers(pattern, path) for stage, config in found for pattern in stage.ignores(config))


def test_a_pattern_that_ignores_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(Predict, "ignores", lambda self, config: {"predict.modell": "misspelt"})
    with pytest.raises(LookupError, match=r"predict\.modell"):
        settings(STAGES["predict"], base("paper"))


def test_a_forgotten_leaf_is_found(tmp_path, monkeypatch):
    """Negative control: without the population among the settings, an old ledger would be read under a new name."""
    own = TrainClassifier.ignores
    monkeypatch.setattr(
        TrainClassifier,
        "ignores",
        lambda self, config: {**own(self, config), "dataset.population": "forgotten"},
    )
    base_stands.cache_clear()
    assert "private: train_classifier" in moved("dataset.population", tmp_path)[1]
    base_stands.cache_clear()
