"""Weights of measuring networks: the layouts that are read, and what is said where they are missing."""

import pytest
import torch
import torchvision
from torch import nn

from mammo_dp.errors import UserError
from mammo_dp.models import download
from mammo_dp.models.feature_spaces import build_inception, build_radimagenet


class RadImageNetLayout(nn.Module):
    """As in RadImageNet's PyTorch example: torchvision's children up to the pooling, in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(torchvision.models.resnet50(weights=None).children())[:9])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x).flatten(1)


def test_radimagenet_in_its_own_layout(tmp_path):
    torch.manual_seed(0)
    theirs = RadImageNetLayout().eval()
    torch.save(theirs.state_dict(), tmp_path / "ResNet50.pt")
    ours = build_radimagenet(str(tmp_path / "ResNet50.pt"))
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_a_file_of_another_network_is_one_sentence(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"radimagenet is left out.*lacks.*fetch ResNet50\.pt"):
        build_radimagenet(str(tmp_path / "x.pt"))


@pytest.mark.parametrize("weights", [None, "/no/such/file.pt"])
def test_radimagenet_weights_that_are_not_here(weights):
    with pytest.raises(UserError, match=r"fetch ResNet50\.pt .*evaluation\.radimagenet_weights=FILE"):
        build_radimagenet(weights)


def test_inception_without_a_network(monkeypatch, tmp_path):
    def no_network(*args):
        raise OSError("no network")

    monkeypatch.setattr(download.socket, "getaddrinfo", no_network)
    monkeypatch.setattr(download.urllib.request, "getproxies", dict)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        UserError, match=r"could not be downloaded.*weights-inception.*evaluation\.inception_weights=FILE"
    ):
        build_inception("download")
    with pytest.raises(UserError, match=r"is not a file; fetch"):
        build_inception(str(tmp_path / "none.pth"))


def test_inception_takes_tensors_only(tmp_path):
    torch.save({"code": print}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="cannot be used"):
        build_inception(str(tmp_path / "x.pth"))


def test_inception_from_a_file(monkeypatch, tmp_path):
    """Random weights in torch-fidelity's own layout; greys as they are, resized by the network itself."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    made: list[nn.Module] = []

    def no_download(url, progress=False):
        raise KeyError

    monkeypatch.setattr(library, "load_state_dict_from_url", no_download)
    original = library.FeatureExtractorInceptionV3.load_state_dict
    monkeypatch.setattr(
        library.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: made.append(self)
    )
    torch.save({}, tmp_path / "none.pth")
    library.FeatureExtractorInceptionV3(
        "x", ["2048"], feature_extractor_weights_path=str(tmp_path / "none.pth")
    )
    monkeypatch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", original)
    torch.save(made[0].state_dict(), tmp_path / "weights.pth")
    images = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8)
    features = build_inception(str(tmp_path / "weights.pth"))(images)
    assert features.shape == (2, 2048)
    assert torch.allclose(features, made[0](images)[0])
