"""`stage=export`: a finished classifier -> `bundle/`, the only folder that may leave the building.

The bundle is built from an allow-list: weights, configuration, privacy statement, model card. Everything in it is a
function of the configuration and of the noisy sums that training released; no size, hash, name, loss, score or random
state of private data is read on the way. `tests/privacy/test_non_interference.py` holds that.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from mammo_dp.artifacts import Artifact, Cache, Output, StageResult, Store, file_identity, to_json
from mammo_dp.config import Config
from mammo_dp.errors import UserError
from mammo_dp.privacy.events import Event, Mechanism
from mammo_dp.privacy.ledger import Ledger, events_of
from mammo_dp.privacy.loss_distribution import group_epsilon
from mammo_dp.privacy.statement import statement
from mammo_dp.reporting.model_card import model_card
from mammo_dp.stages.train_classifier import WEIGHTS, model_record

BUNDLE = "bundle"
# Of the training mechanism; what is not named here stays behind.
MECHANISM_KEYS = (
    "unit", "adjacency", "epsilon", "epsilon_spent", "delta", "noise_multiplier", "sensitivity", "sample_rate", "steps",
    "accountant", "accountants", "max_grad_norm", "public_count", "randomness", "warnings",
)  # fmt: skip
GROUPS = (2, 4, 8, 16)  # images of a patient for whom an image-level guarantee is re-read; fixed, not counted


def check_ledger(config: Config, ledger: Ledger) -> None:
    """Refuse a bundle that would protect nobody, unless export.accept says that this is meant."""
    accepted = config.export.accept
    if ledger.headline is not None and ledger.headline.unlimited and "no_guarantee" not in accepted:
        assert ledger.breaking is not None
        raise UserError(
            f"this classifier has no end-to-end guarantee ({ledger.breaking.why}), so a bundle would protect nobody; "
            "change that, or export it all the same with export.accept=[no_guarantee]: its statement says so"
        )
    if config.privacy.is_private and config.privacy.randomness == "seeded" and "seeded_noise" not in accepted:
        raise UserError(
            "this classifier's noise comes from a seed, and whoever learns it can remove the noise; train with "
            "privacy.randomness=secure, or export it all the same with export.accept=[seeded_noise]"
        )


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    classifier = inputs["classifier"]
    record = classifier.manifest["privacy"]
    ledger = Ledger(
        events_of([record["ledger"]]),
        claimed=config.privacy.unit,
        delta=config.privacy.delta,
        cache=output.cache,
        assumptions=tuple(record["ledger"]["assumptions"]),
    ).for_release()
    tensors = load_file(classifier.path(WEIGHTS))
    settings = released_settings(config, output.cache)
    privacy = _privacy(config, record, ledger, output.cache)
    folder = output.folder / BUNDLE
    folder.mkdir(exist_ok=True)
    features = tensors["0.weight"].shape[1]  # of the first layer
    save_file(
        tensors, folder / "model.safetensors", metadata={"model": to_json(model_record(config, features))}
    )
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    (folder / "privacy.json").write_text(to_json(privacy))
    (folder / "STATEMENT.md").write_text(f"# Privacy statement\n\n{privacy['statement']}\n")
    (folder / "README.md").write_text(model_card(settings, privacy))
    together = _released_together(output, ledger, events_of([record["ledger"]]))
    return StageResult(
        metrics={"files": len(list(folder.iterdir())), "bundles_of_these_patients": together["bundles"]},
        summary=f"bundle: {folder}\n{privacy['statement']}\n{together['sentence']}".strip(),
        manifest={"privacy": {"released_together": together}},
    )


def released_settings(config: Config, cache: Cache) -> dict[str, Any]:
    """The configuration that may leave: no path, no seed, nothing of the machine."""
    weights = config.classifier.weights_file
    public = {"imagenet": "imagenet", "none": "random"}.get(config.classifier.weights, "a file of its own")
    settings: dict[str, Any] = {
        "dataset": config.dataset.name,
        "experiment": config.experiment.name,
        "patches": config.patches.model_dump(),
        "classifier": config.classifier.model_dump(exclude={"cache_features"}) | {"weights": public},
        "recipe": config.recipe.model_dump(),
        "privacy": config.privacy.model_dump(exclude={"require"}) | {"public_count": config.public_count},
    }
    if weights is not None:  # of public pre-training; without it the head cannot be used
        settings["classifier"]["weights_sha256"] = file_identity(weights, cache)
    if config.experiment.uses_synthetic:
        settings["synthetic"] = config.synthetic.model_dump(exclude={"root"})
    if not config.privacy.is_private:
        settings["privacy"] = {"epsilon": "inf"}
    return settings


def _privacy(config: Config, record: Mapping[str, Any], ledger: Ledger, cache: Cache) -> dict[str, Any]:
    found: dict[str, Any] = {key: record[key] for key in MECHANISM_KEYS if key in record}
    if config.privacy.is_private and config.privacy.unit == "image":
        mechanism = Mechanism(
            *(record[k] for k in ("sample_rate", "noise_multiplier", "steps", "sensitivity"))
        )
        found["patient_with_n_images"] = {
            str(n): group_epsilon(mechanism, images=n, delta=config.privacy.delta, cache=cache)
            for n in GROUPS
        }
    return {**found, "ledger": ledger.to_dict(), "statement": statement(ledger)}


def _released_together(output: Output, ledger: Ledger, own: tuple[Event, ...]) -> dict[str, Any]:
    """What this bundle and those exported before reveal together of the same patients; for the owner alone."""
    studies = {event.study for event in own}
    store = Store(output.folder.parents[1])
    earlier = [a for a in store.finished("export") if a.folder != output.folder]
    events = [e for e in events_of(a.manifest["privacy"]["ledger"] for a in earlier) if e.study in studies]
    bundles = 1 + sum(
        any(e["study"] in studies for e in a.manifest["privacy"]["ledger"]["events"]) for a in earlier
    )
    whole = replace(ledger, events=tuple(dict.fromkeys((*own, *events))))
    total = whole.headline_epsilon
    sentence = (
        f"Together, the {bundles} bundles of these patients reveal at most epsilon {total:.4g} per {ledger.claimed}."
        if bundles > 1
        else ""
    )
    return {"bundles": bundles, "epsilon": total, "sentence": sentence}
