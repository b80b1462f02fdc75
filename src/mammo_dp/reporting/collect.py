"""A finished classifier as a report sees it, and which runs may stand in one table and in one row."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from mammo_dp.engine.artifacts import Artifact
from mammo_dp.files import Cache, fingerprint
from mammo_dp.models.releases import release_name
from mammo_dp.privacy.ledger import Account, Ledger, events_of
from mammo_dp.privacy.statement import statement

PREDICTIONS = "predictions.csv"
TRAINED = {
    "all": "every parameter",
    "norm_head": "last normalisation and head",
    "last_stage": "last stage and head",
    "bias": "every bias and the head",
}
PUBLIC = ", public preparation"  # of a setup's name
COLUMNS = pd.Index(["source", "patient", "malignant", "p_malignant"])  # of it, those that are read here


@dataclass(frozen=True)
class Run:
    """One finished classifier.

    `comparison_key` is what all setups of a table share: data, backbone, weights. `recipe` is the rest of a study;
    synpre has none (it trains by its own), nor has one behind a public preparation, and that of synpre_realft is known
    but for its head, `headless_recipe`.
    """

    comparison_key: str
    recipe: str | None
    headless_recipe: str | None
    setting: str  # fingerprint of everything but the seed: what may stand in one row
    title: str
    experiment: str
    epsilon: float
    privacy: str  # the rest of the privacy settings, in words
    seed: int
    headline: float  # end-to-end epsilon of its ledger, infinite if anything that shaped it has no guarantee
    statement: str  # of a release: without the owner's numbers
    ledger: dict[str, Any]  # its record, for what several seeds reveal together
    test: dict[str, dict[str, Any]]  # source -> metrics, as `metrics.performance` gives them
    account: Account | None = None  # its headline
    artifact: str = ""  # its name, by which audits find it
    recipe_name: str = ""
    selected_epoch: int | None = None
    beside_paper: bool = True  # whether the paper's numbers may stand beside it: not for random weights
    predictions: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=COLUMNS), compare=False
    )  # of the test sets

    def predictions_on(self, source: str) -> pd.DataFrame:
        """Those on one test set; no row where there are none."""
        return self.predictions.loc[self.predictions["source"] == source]

    @classmethod
    def of(cls, artifact: Artifact, *, cache: Cache) -> "Run":
        """cache: of compositions."""
        manifest = artifact.manifest
        settings = json.loads(json.dumps(manifest["settings"]))
        one_row = {key: value for key, value in settings.items() if key != "seed"}
        inputs = {role: record["fingerprint"] for role, record in manifest["inputs"].items()}
        before = manifest.get("continues")
        if before is not None:  # its backbone and the backbone's features differ from seed to seed
            inputs = {role: value for role, value in inputs.items() if role == "patches"}
        synthetic = _synthetic(manifest)
        privacy, experiment = settings["privacy"], settings["experiment"]["name"]
        norm = settings["recipe"].pop("max_grad_norm", None)
        config: Any = OmegaConf.load(artifact.path("config.yaml"))
        recipe = settings["recipe"] | {"classifier": settings["classifier"]}
        exact = fingerprint(recipe)
        loose = fingerprint({k: v for k, v in recipe.items() if k not in ("head", "hidden")})
        predictions = pd.read_csv(artifact.path(PREDICTIONS), dtype={"patient": str}, keep_default_na=False)
        metrics = artifact.read_json("metrics.json")
        # public preparation is a setup beside the paper's, in every table of the same data and backbone
        public = settings["recipe"].get("components") is not None
        pretrained = experiment == "synpre" or public
        released = _released(manifest["privacy"], cache)
        return cls(
            comparison_key=fingerprint(
                {
                    "dataset": settings["dataset"]["name"],
                    "patches": inputs["patches"],
                    "backbone": manifest["backbone"],
                    "version": manifest["stage_version"],
                }
            ),
            recipe=None if pretrained or before is not None else exact,
            headless_recipe=None if pretrained else loose,
            setting=fingerprint({**one_row, "inputs": inputs, "continues": before}),
            title=_title(config, manifest["backbone"]),
            experiment=f"{experiment}{PUBLIC}" if public else experiment,
            epsilon=float(privacy["epsilon"]),
            privacy=", ".join(_words(manifest["privacy"], norm, synthetic, settings, before)),
            seed=settings["seed"],
            headline=_headline(manifest["privacy"]["ledger"]),
            statement=statement(released),
            ledger=manifest["privacy"]["ledger"],
            account=released.headline,
            test=metrics["test"],
            artifact=artifact.name,
            recipe_name=config.recipe.name,
            selected_epoch=metrics["training"]["selected_epoch"],
            beside_paper=not manifest["backbone"]["weights"].startswith("random"),
            predictions=predictions.loc[predictions["split"] == "test"],
        )


def _released(privacy: dict[str, Any], cache: Cache) -> Ledger:
    ledger = privacy["ledger"]
    delta = next((float(account["delta"]) for account in ledger["accounts"]), 0.0)
    return Ledger(
        events_of([ledger]), claimed=privacy["unit"], delta=delta, cache=cache,
        assumptions=tuple(ledger["assumptions"]),
    ).for_release()  # fmt: skip


def _title(config: Any, backbone: dict[str, Any]) -> str:
    weights = backbone["weights"].removeprefix("sha256 ")
    named = weights if len(weights) < 64 else f"{release_name(weights) or 'file'} (SHA-256 {weights[:8]})"
    return f"{config.dataset.name}, {backbone['label']} from {named} weights"


def _synthetic(manifest: dict[str, Any]) -> dict[str, Any] | None:
    if "synthetic" not in manifest["inputs"]:
        return None
    found = manifest["settings"].get("synthetic", {})
    return {**found, "from": manifest["inputs"]["synthetic"]["artifact"].partition("/")[2].rpartition("-")[0]}


def _headline(ledger: dict[str, Any]) -> float:
    worst = ledger["headline"]
    return 0.0 if worst is None else math.inf if worst["epsilon"] is None else float(worst["epsilon"])


def _words(
    privacy: dict[str, Any],
    norm: float | None,
    synthetic: dict[str, Any] | None,
    settings: dict[str, Any],
    before: dict[str, Any] | None,
) -> list[str]:
    if privacy["epsilon"] == "inf":
        words = ["not private", *(["patients averaged"] if privacy["unit"] == "patient" else [])]
    else:
        words = [
            f"{privacy['unit']} level",
            f"delta {privacy['delta']:g}",
            f"{privacy['accountant']} accounting",
            f"C {norm:g}",
            f"N {privacy['public_count']}",
            *([privacy["adjacency"]] if privacy["adjacency"] != "zero_out" else []),
        ]
    trainable = settings["classifier"]["trainable"]
    if trainable != "head":
        words.append(TRAINED[trainable])
    if settings["experiment"]["name"] == "synpre":
        words.append(_trained_by(settings))
    if synthetic is not None:
        role = "".join(f" {synthetic[key]}" for key in ("role", "weight") if key in synthetic)
        words.append(f"synthetic images{role} ({synthetic['from']})")
    if before is not None:
        words.append(f"after synpre ({_trained_by(before['settings'])})")
    return words


def _trained_by(settings: dict[str, Any]) -> str:
    """How synpre was trained, in words."""
    recipe = settings["recipe"]
    chosen = settings.get("synthetic", {}).get("validation")
    epoch = f"epoch chosen on {chosen} validation images" if chosen else f"select {recipe['select']}"
    return f"{recipe['epochs']} epochs, lr {recipe['lr']:g}, {epoch}"


def group(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """(comparison_key, recipe) -> the runs of one study. A run without a recipe joins every study that it fits in."""
    every = list(runs)
    found: dict[tuple[str, str], list[Run]] = {}
    loose: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for run in every:
        if run.recipe is not None and run.headless_recipe is not None:
            found.setdefault((run.comparison_key, run.recipe), []).append(run)
            loose.setdefault((run.comparison_key, run.headless_recipe), set()).add(
                (run.comparison_key, run.recipe)
            )
    for run in every:
        if run.recipe is None and run.headless_recipe is not None:
            own = (run.comparison_key, f"loose {run.headless_recipe}")
            for key in loose.get((run.comparison_key, run.headless_recipe)) or {own}:
                found.setdefault(key, []).append(run)
    for run in every:
        if run.headless_recipe is None:
            fitting = [key for key in found if key[0] == run.comparison_key] or [(run.comparison_key, "")]
            for key in fitting:
                found.setdefault(key, []).append(run)
    return found
