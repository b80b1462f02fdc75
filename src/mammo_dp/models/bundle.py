"""A trained classifier in files: what it says of itself, what of its configuration is published, how it is read again.

A finished run and an exported bundle have the same form: head.safetensors, and backbone.safetensors where the backbone
was trained, each with the record of `model_record` as metadata.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mammo_dp.config import Config
from mammo_dp.config.schema import Classifier
from mammo_dp.engine.artifacts import Artifact, Store
from mammo_dp.errors import UserError
from mammo_dp.files import Cache, file_identity, sha256
from mammo_dp.layers import Affine
from mammo_dp.models.backbone import build_backbone, take_norm
from mammo_dp.models.preparation import PREPARATION, Preparation

# of a trained classifier; the backbone where it was trained too
HEAD, BACKBONE = "head.safetensors", "backbone.safetensors"
# of a recipe, what its head cannot be used without
USED_BY_HEAD = ("head", "hidden", "normalize_features", "feature_norm", "flips", "components", "test_flips")


def model_record(config: Config, cache: Cache, *, folder: Path) -> dict[str, Any]:
    """What is needed to use the weights: how inputs are made, which backbone, which head. No path, nothing private.

    folder: of the trained classifier, which may hold a preparation.
    """
    classifier, recipe = config.classifier, config.recipe
    record = {
        "patches": config.patches.model_dump(),
        "classifier": classifier.backbone_settings | {"trainable": classifier.trainable},
        "recipe": recipe.model_dump(include=set(USED_BY_HEAD)),
        "backbone": weights_name(classifier, cache),
        "precision": config.runtime.precision,
    }
    if classifier.trains_backbone or config.experiment.continues_synpre:
        record["backbone"] = BACKBONE
    if (folder / PREPARATION).is_file():
        record["preparation"] = sha256(folder / PREPARATION)
    return record


def weights_name(classifier: Classifier, cache: Cache) -> str:
    """The backbone's weights in a word: imagenet, random with its seed, or the SHA-256 of their file."""
    if classifier.weights_file is not None:
        return f"sha256 {file_identity(classifier.weights_file, cache)}"
    return str(classifier.named_weights)


def released_settings(config: Config, cache: Cache) -> dict[str, Any]:
    """The configuration that may leave: no path, no seed of training, nothing of the machine."""
    weights = config.classifier.weights_file
    named = config.classifier.named_weights
    public = "a file of its own" if named is None else named.partition(",")[0]
    settings: dict[str, Any] = {
        "dataset": config.dataset.name,
        "split": config.dataset.split,
        "precision": config.runtime.precision,
        "experiment": config.experiment.name,
        "patches": config.patches.model_dump(),
        "classifier": config.classifier.model_dump(exclude={"cache_features"}) | {"weights": public},
        "recipe": config.recipe.model_dump(),
        "privacy": config.privacy.model_dump(exclude={"require"}) | {"public_count": config.public_count},
    }
    if config.classifier.trains_backbone or config.experiment.continues_synpre:
        settings["classifier"]["trained"] = BACKBONE
    if config.experiment.continues_synpre:
        settings["pretraining"] = config.pretraining.model_dump()
    if weights is not None:  # of public pre-training; without it the head cannot be used
        settings["classifier"]["weights_sha256"] = file_identity(weights, cache)
    if config.experiment.name != "real":
        settings["synthetic"] = config.synthetic.model_dump(exclude={"root", "seed"})
    if config.trains_gan:
        settings["gan"] = config.gan.model_dump(exclude={"seed"})
        settings["gan"]["privacy"] |= {"public_count": config.generator_count}
        if not config.gan.privacy.is_private:
            settings["gan"]["privacy"] = {"epsilon": "inf"}
    if not config.privacy.is_private:
        settings["privacy"] = {"epsilon": "inf", "unit": config.privacy.unit}
    return settings


@dataclass(frozen=True)
class Saved:
    """A folder with a trained classifier: a finished run, or a bundle."""

    folder: Path
    artifact: Artifact | None  # of a run; its files are checked against its manifest
    record: dict[str, Any]  # `model_record`

    @classmethod
    def open(cls, folder: Path) -> "Saved":
        """Raises UserError if the folder holds no classifier."""
        given, folder = folder, folder.resolve()
        path = folder / HEAD
        if not path.is_file():
            raise UserError(
                f"predict.model={given} holds no {HEAD}; give the folder of a finished run in "
                "outputs/train_classifier/, or an exported bundle"
            )
        artifact = Store(folder.parents[1]).load(folder) if (folder / "manifest.json").is_file() else None
        try:
            with safe_open(artifact.path(HEAD) if artifact else path, "pt") as file:
                return cls(folder, artifact, json.loads((file.metadata() or {})["model"]))
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise UserError(
                f"{HEAD} of predict.model cannot be read ({type(error).__name__}); export or train it again"
            ) from None

    @property
    def backbone_file(self) -> Path | None:
        """The backbone that was trained here: in this folder, or in the run of synpre that this one went on from."""
        if self.record["backbone"] != BACKBONE:
            return None
        if (self.folder / BACKBONE).is_file():
            return self.artifact.path(BACKBONE) if self.artifact else self.folder / BACKBONE
        if self.artifact is not None and "backbone" in self.artifact.manifest["inputs"]:
            before = self.folder.parents[1] / self.artifact.manifest["inputs"]["backbone"]["artifact"]
            if (before / BACKBONE).is_file():
                return before / BACKBONE
        raise UserError(
            f"predict.model has no {BACKBONE} and the run that made it is gone; train it again, or export it first"
        )

    def preparation(self) -> Preparation:
        """What is done to features before the head. Raises UserError if its file is gone."""
        recipe = self.record["recipe"]
        file = None
        if recipe.get("components") is not None:
            file = self.folder / PREPARATION
            if not file.is_file() or sha256(file) != self.record["preparation"]:
                raise UserError(
                    f"predict.model has no {PREPARATION}, or another than its head was trained behind; copy the whole "
                    "folder again"
                )
        return Preparation.of(recipe, file)

    def head(self) -> nn.Sequential:
        """The trained head, in eval mode."""
        return head_of(_tensors(self.folder / HEAD))

    def backbone(self, given: Classifier, cache: Cache) -> nn.Module:
        """The backbone that the head was trained on, as `given` names its weights where they came from outside.

        Raises UserError if those are other weights.
        """
        kept = self.record["classifier"]
        settings = Classifier(
            **{"features": "last", **kept}, weights=self._weights(given, cache), init_seed=self._init_seed,
            backbone_mode="eval", cache_features=False,
        )  # fmt: skip
        backbone = build_backbone(settings, _tensors(self.backbone_file) if self.backbone_file else None)
        if settings.trainable == "norm_head":
            take_norm(backbone, settings)
        return backbone

    @property
    def _init_seed(self) -> int:
        words = self.record["backbone"].split()
        return int(words[-1]) if words[0] == "random," else 0

    def _weights(self, given: Classifier, cache: Cache) -> str:
        name = self.record["backbone"]
        if name == BACKBONE or name.startswith("random"):
            return "none"
        if name == "imagenet":
            return "imagenet_timm"
        if name.startswith("torchvision "):
            return "imagenet"
        wanted = name.removeprefix("sha256 ")
        packaged = [f"pkg:{path.name}" for path in Path(__file__).parent.glob("*.safetensors")]
        for weights in (given.weights, *packaged):
            file = given.model_copy(update={"weights": weights}).weights_file
            if file is not None and file.is_file() and file_identity(file, cache) == wanted:
                return weights
        raise UserError(
            f"the classifier was trained on backbone weights with SHA-256 {wanted[:16]}..., which classifier.weights="
            f"{given.weights} are not; give classifier.weights=FILE of those"
        )


def head_of(tensors: dict[str, torch.Tensor]) -> nn.Sequential:
    """A head from its tensors alone, in eval mode; LeakyReLU(0.2) stands where a number is missing."""
    layers: dict[int, nn.Module] = {}
    for key, tensor in tensors.items():
        if key.endswith(".weight"):
            layers[int(key.split(".")[0])] = (
                Affine(len(tensor)) if tensor.ndim == 1 else nn.Linear(tensor.shape[1], tensor.shape[0])
            )
    for number in range(max(layers)):
        layers.setdefault(number, nn.LeakyReLU(0.2))
    head = nn.Sequential(*(layers[number] for number in sorted(layers)))
    head.load_state_dict(tensors, strict=True)
    return head.eval()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
