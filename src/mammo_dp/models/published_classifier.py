"""A classifier's checkpoint of the paper's published code, in the form of one that was trained here.

torchvision's Swin-T; its head is Linear(768, 384), LeakyReLU(0.2), Linear(384, 2) on a frozen backbone (`head.0`,
`head.2`), and Linear(768, 2) where the backbone was trained (`head`). Its label is `is_benign`, so output 1 is benign.
"""

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from mammo_dp.config.schema import Classifier, Patches
from mammo_dp.errors import UserError
from mammo_dp.files import Cache
from mammo_dp.models.backbone import build_backbone
from mammo_dp.models.bundle import Saved, head_of
from mammo_dp.models.weights import State, fit_weights, read_weights

SWIN_T = "swin_tiny_patch4_window7_224"
HEADS = ({"0", "2"}, {""})  # numbers of the layers with parameters


@dataclass(frozen=True)
class PublishedClassifier(Saved):
    """Its file's tensors, with torchvision's names."""

    tensors: State = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "PublishedClassifier":
        """folder: the checkpoint, a file. Raises UserError if it is none of the published code's."""
        tensors = read_weights(folder, setting="predict.model")
        layers = {
            key.split(".")[1] if key.count(".") == 2 else "" for key in tensors if key.startswith("head.")
        }
        outputs = [len(t) for key, t in tensors.items() if key in ("head.weight", "head.2.weight")]
        if layers not in HEADS or outputs != [2]:
            raise UserError(
                f"predict.model={folder.name} is a file and no classifier of the paper's published code, which has a "
                "head of two outputs (head.weight, or head.0 and head.2); give such a checkpoint, or the folder of a "
                "finished run or bundle"
            )
        plain = {"normalize_features": False, "feature_norm": 1.0, "components": None, "test_flips": False}
        record = {
            "patches": Patches.model_validate({}).model_dump(),
            "classifier": Classifier.model_validate({"backbone": SWIN_T}).backbone_settings
            | {"trainable": "head"},
            "recipe": {
                "head": "mlp" if "2" in layers else "linear",
                "hidden": None,
                "flips": "random",
                **plain,
            },
            "backbone": "published",
            "precision": "float32",
        }
        return cls(folder, None, record, tensors)

    def backbone(self, given: Classifier, cache: Cache) -> nn.Module:
        settings = given.model_copy(
            update={**self.record["classifier"], "weights": "none", "features": "last"}
        )
        backbone = build_backbone(settings)
        fit_weights(backbone, self.tensors, name=SWIN_T)
        return backbone.eval()

    def head(self) -> nn.Sequential:
        tensors = {k.removeprefix("head."): t for k, t in self.tensors.items() if k.startswith("head.")}
        if "weight" in tensors:
            tensors = {f"0.{key}": tensor for key, tensor in tensors.items()}
        last = max(tensors).split(".")[0]
        # ours: benign, malignant
        return head_of({k: t.flip(0) if k.split(".")[0] == last else t for k, t in tensors.items()})


def open_classifier(path: Path) -> Saved:
    """A trained classifier: the folder of a run or bundle, or a checkpoint of the published code."""
    return PublishedClassifier.open(path) if path.is_file() else Saved.open(path)
