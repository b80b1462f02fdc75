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
from mammo_dp.models.weights import TORCHVISION_SWIN, State, fit_weights, layout_of, read_weights

SWIN_T = "swin_tiny_patch4_window7_224"
HEADS = (  # names and shapes
    {"head.0.weight": (384, 768), "head.0.bias": (384,), "head.2.weight": (2, 384), "head.2.bias": (2,)},
    {"head.weight": (2, 768), "head.bias": (2,)},
)


@dataclass(frozen=True)
class PublishedClassifier(Saved):
    """Its file's tensors, with torchvision's names."""

    tensors: State = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "PublishedClassifier":
        """folder: the checkpoint, a file. Raises UserError if it is none of the published code's."""
        tensors = read_weights(folder, setting="predict.model")
        head = {key: tuple(tensor.shape) for key, tensor in tensors.items() if key.startswith("head.")}
        if head not in HEADS or layout_of(tensors) != TORCHVISION_SWIN:
            raise UserError(
                f"predict.model={folder.name} is a file and no classifier of the paper's published code, which is "
                "torchvision's Swin-T with a head of two outputs (head, or head.0 and head.2); give such a checkpoint, "
                "or the folder of a finished run or bundle"
            )
        plain = {"normalize_features": False, "feature_norm": 1.0, "components": None, "test_flips": False}
        record = {
            "patches": Patches.model_validate({}).model_dump(),
            "classifier": Classifier.model_validate({"backbone": SWIN_T}).backbone_settings
            | {"trainable": "head"},
            "recipe": {
                "head": "linear" if "head.weight" in head else "mlp",
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
        fit_weights(backbone, self.tensors, name=SWIN_T, setting="predict.model")
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
