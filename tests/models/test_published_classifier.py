"""Checkpoints of the published code: torchvision's Swin-T with its head is the oracle."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from mammo_dp.errors import UserError
from mammo_dp.models.published_classifier import open_classifier
from mammo_dp.models.weights import from_torchvision_swin
from mammo_dp.stages import node_of
from tests.conftest import config_of


def published(head: str) -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.swin_t()
    mlp = nn.Sequential(nn.Linear(768, 384), nn.LeakyReLU(0.2), nn.Linear(384, 2))
    network.head = mlp if head == "mlp" else nn.Linear(768, 2)  # type: ignore[assignment]
    nn.init.normal_(list(network.head.parameters())[-2], std=0.1)
    return network.eval()


def expected(network: nn.Module, image: np.ndarray) -> float:
    """As the published code: INTER_AREA to 224, three channels, mean and std of 0.5; output 1 is benign."""
    large = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    inputs = torch.from_numpy((large - 0.5) / 0.5)[None, None].expand(1, 3, -1, -1)
    with torch.no_grad():
        return float(network(inputs).double().softmax(dim=1)[0, 0])


@pytest.mark.parametrize(("head", "prefix"), [("mlp", ""), ("linear", "_module.")])
def test_patches_are_scored_as_the_published_code_scores_them(head, prefix, fresh, tmp_path):
    network = published(head)
    state = {f"{prefix}{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "checkpoint.pt")
    (tmp_path / "patches").mkdir()
    rng = np.random.default_rng(0)
    # from 0 to 255 each, so that nothing is stretched
    images = {f"{k}.png": rng.integers(0, 256, (128, 128), dtype=np.uint8) for k in range(3)}
    for name, image in images.items():
        cv2.imwrite(str(tmp_path / "patches" / name), image)
    words = ("stage=predict", f"outputs={fresh.outputs}", f"predict.model={tmp_path}/checkpoint.pt",
             f"predict.input={tmp_path}/patches", "predict.names=true")  # fmt: skip
    assert fresh.run(*words) == 0
    table = pd.read_csv(node_of(config_of(*words)).artifact().path("predictions.csv"))
    for name, p_malignant in zip(table["file"], table["p_malignant"], strict=True):
        assert p_malignant == pytest.approx(expected(network, images[name]), abs=1e-5)
    assert table["p_malignant"].nunique() == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {k: v for k, v in state.items() if not k.startswith("head.")},
        lambda state: state | {"head.weight": torch.zeros(1000, 768)},
        lambda state: {"conv.weight": torch.zeros(1)},
        lambda state: (
            from_torchvision_swin(state) | {"head.weight": torch.zeros(2, 768)}
        ),  # somebody's own Swin
        lambda state: {k: v for k, v in state.items() if k != "head.bias"},
        lambda state: state | {"head.weight": torch.tensor(1.0)},
    ],
)
def test_another_file_is_one_sentence(change, tmp_path):
    torch.save(change(published("linear").state_dict()), tmp_path / "checkpoint.pt")
    with pytest.raises(
        UserError, match=r"checkpoint\.pt is a file and no classifier of the paper's published code"
    ):
        open_classifier(tmp_path / "checkpoint.pt")
