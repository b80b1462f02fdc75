"""`stage=export`: a finished classifier -> `bundle/`, the only folder that may be published.

The bundle is built from an allow-list: weights, configuration, privacy statement, model card. Everything in it is a
function of the configuration and of the noisy sums that training released; no size, hash, name, loss, score or random
state of private data is read on the way. `tests/privacy/test_non_interference.py` holds that.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from mammo_dp.config import Config
from mammo_dp.config.rules import warnings
from mammo_dp.engine.artifacts import Artifact, Output, StageResult, Store
from mammo_dp.errors import UserError
from mammo_dp.files import Cache, to_json, write_atomic
from mammo_dp.models.bundle import BACKBONE, HEAD, model_record, released_settings
from mammo_dp.models.preparation import PREPARATION, record_of
from mammo_dp.privacy.events import Event, Mechanism
from mammo_dp.privacy.ledger import Ledger, events_of
from mammo_dp.privacy.loss_distribution import group_epsilon
from mammo_dp.privacy.statement import statement
from mammo_dp.reporting.model_card import model_card
from mammo_dp.rounding import rounded_up

BUNDLE = "bundle"
# Of the training mechanism; what is not named here stays behind.
MECHANISM_KEYS = (
    "unit", "adjacency", "epsilon", "epsilon_spent", "delta", "noise_multiplier", "sensitivity", "sample_rate", "steps",
    "accountant", "accountants", "max_grad_norm", "public_count", "randomness", "warnings", "mu", "noise", "grid_step",
    "noise_scale_in_grid_steps", "sensitivity_in_grid_steps",
)  # fmt: skip
GROUPS = (2, 4, 8, 16)  # images of a patient for whom an image-level guarantee is re-read; fixed, not counted
AS_PUBLIC = "directions of these people as public images"
RELEASES = ".releases.jsonl"  # in the root of artifacts: every bundle ever built, also those deleted since


def check_ledger(config: Config, ledger: Ledger) -> None:
    """Refuse a bundle that would protect no patient or, with earlier ones, more than privacy.require allows."""
    accepted, privacy = config.export.accept, config.privacy
    if ledger.headline is not None and ledger.headline.unlimited and "no_guarantee" not in accepted:
        assert ledger.dominant_event is not None
        raise UserError(
            f"this classifier has no end-to-end guarantee for the {ledger.dominant_event.cohort} patients of "
            f"{ledger.dominant_event.study} ({ledger.dominant_event.why}); change that, or export it all the same with "
            "export.accept=[no_guarantee]: its statement says so"
        )
    generator = config.gan.privacy
    own = privacy.is_private and privacy.randomness == "seeded"
    generators = config.trains_gan and generator.is_private and generator.randomness == "seeded"
    if (own or generators) and "seeded_noise" not in accepted:
        whose, key = ("classifier", "privacy") if own else ("generator", "gan.privacy")
        raise UserError(
            f"this {whose}'s noise comes from a seed, and whoever learns it can remove the noise; train with "
            f"{key}.randomness=secure, or export it all the same with export.accept=[seeded_noise]"
        )
    warned = warnings(config)
    if warned and "large_delta" not in accepted:
        raise UserError(f"{warned[0]}, or export it all the same with export.accept=[large_delta]")
    total = _with_earlier(ledger, Path(config.outputs))
    if any(event.what == AS_PUBLIC for event in total.events) and "no_guarantee" not in accepted:
        raise UserError(
            f"the people of {config.dataset.population} were the public images of an earlier bundle, which released "
            "directions of theirs without noise; export it all the same with export.accept=[no_guarantee]"
        )
    _check_total(config, total)


def _check_total(config: Config, total: Ledger) -> None:
    required = config.privacy.require
    if required is not None and total.headline_epsilon > required:
        raise UserError(
            f"privacy.require={required:g} refuses this bundle: together with the bundles of the same patients that "
            f"were built in {config.outputs}/ before, it reveals epsilon {rounded_up(total.headline_epsilon)} per "
            f"{total.claimed}"
        )


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    classifier = inputs["classifier"]
    record = classifier.manifest["privacy"]
    own = _ledger_of(record, config, output.cache)
    root = output.folder.parents[1]
    with Store(root).lock(root / "export" / RELEASES):  # what is checked here is what is registered
        _check_total(config, _with_earlier(own, root))
        _register(own, root, public=config.public_images.population if config.uses_public else "")
    ledger = own.for_release()
    settings = released_settings(config, output.cache) | record_of(classifier.folder)
    privacy = _privacy(config, record, ledger, output.cache)
    folder = output.folder / BUNDLE
    folder.mkdir(exist_ok=True)
    metadata = {"model": to_json(model_record(config, output.cache, folder=classifier.folder))}
    save_file(load_file(classifier.path(HEAD)), folder / HEAD, metadata=metadata)
    trained = classifier if config.classifier.trains_backbone else inputs.get("backbone")
    if trained is not None:
        save_file(load_file(trained.path(BACKBONE)), folder / BACKBONE, metadata=metadata)
    if config.recipe.components is not None:  # learnt from public images alone
        shutil.copyfile(classifier.path(PREPARATION), folder / PREPARATION)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    (folder / "privacy.json").write_text(to_json(privacy))
    (folder / "STATEMENT.md").write_text(f"# Privacy statement\n\n{privacy['statement']}\n")
    card = model_card(
        settings,
        statement=privacy["statement"],
        bundle=True,
        epsilon=rounded_up(ledger.headline_epsilon, digits=4),
    )
    (folder / "README.md").write_text(card)
    return StageResult(
        metrics={"files": len(list(folder.iterdir()))}, summary=f"bundle: {folder}\n{privacy['statement']}"
    )


def total_of_bundles(config: Config, artifact: Artifact) -> str:
    """What all bundles of this folder of artifacts reveal now: printed whenever the artifact is named, never stored."""
    total = _with_earlier(_ledger_of(artifact.manifest["privacy"], config, Store.of(config).cache),
                          Path(config.outputs))  # fmt: skip
    return (
        f"All bundles built in this folder of artifacts from the same patients reveal together at most epsilon "
        f"{rounded_up(total.headline_epsilon)} per {total.claimed}."
    )


def _ledger_of(record: Mapping[str, Any], config: Config, cache: Cache) -> Ledger:
    return Ledger(
        events_of([record["ledger"]]),
        claimed=config.privacy.unit,
        delta=config.privacy.delta,
        cache=cache,
        assumptions=tuple(record["ledger"]["assumptions"]),
    )


def _with_earlier(own: Ledger, root: Path) -> Ledger:
    """The events of this bundle and of every earlier one below `root` that saw the same patients."""
    path = root / RELEASES
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines if line]
        earlier = events_of(records)
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(
            f"{path} is damaged, so what was released before cannot be added up; restore it from a backup (a line that "
            "was cut belongs to an export that did not finish: remove that line, and nothing else)"
        ) from None
    studies = {event.study for event in own.events}
    both = (*own.events, *(event for event in earlier if event.study in studies))
    for study in sorted(studies & {str(line.get("public", "")) for line in records}):
        why = "these people were the public images of an earlier bundle"
        both += (Event(AS_PUBLIC, "fit_preparation", "training", study, "shapes_model", why),)
    return replace(own, events=tuple(dict.fromkeys(both)))


def _register(own: Ledger, root: Path, *, public: str) -> None:
    """Before the bundle is built: one that was built may have left, whatever becomes of its folder."""
    path = root / RELEASES
    before = path.read_text() if path.exists() else ""
    record = {"events": [event.to_dict() for event in own.events], "public": public}
    write_atomic(path, before + json.dumps(record) + "\n")


def _privacy(config: Config, record: Mapping[str, Any], ledger: Ledger, cache: Cache) -> dict[str, Any]:
    # without a mechanism of the classifier's own, the ledger alone speaks: a private generator may stand behind it
    found: dict[str, Any] = (
        {k: record[k] for k in MECHANISM_KEYS if k in record} if config.privacy.is_private else {}
    )
    if config.privacy.is_private and config.privacy.unit == "image":
        mechanism = Mechanism(
            *(record[k] for k in ("sample_rate", "noise_multiplier", "steps", "sensitivity"))
        )
        found["patient_with_n_images"] = {
            str(n): group_epsilon(mechanism, images=n, delta=config.privacy.delta, cache=cache)
            for n in GROUPS
        }
    return {**found, "ledger": ledger.to_dict(), "statement": statement(ledger)}
