"""The authors' published generator: a file in its layout is written by a network made as its code makes it."""

import pytest
import torch
from torch import nn

from mammo_dp.errors import UserError
from mammo_dp.models.mcgan import sample
from mammo_dp.models.published_generator import read_published_generator
from tests.conftest import config_of

CHANNELS = (16, 8, 4, 2)  # the published one: 1024, 512, 256, 128, 64, for 128 px


class Published(nn.Module):
    """Attribute names, order and shapes of the published code (paper_facts: MCGAN); condition 0 is malignant."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d, latents: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 2 * latents
        for number, channels in enumerate(CHANNELS):
            stride, padding = (1, 0) if number == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(before, channels, 4, stride, padding, bias=False),
                norm(channels),
                nn.ReLU(True),
            ]
            before = channels
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(before, 1, 4, 2, 1, bias=False), nn.Tanh())
        self.embed_nn = nn.Sequential(nn.Embedding(2, 5), nn.Linear(5, latents), nn.LeakyReLU(0.1))

    def forward(self, latents: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        given = self.embed_nn(conditions)
        return self.main(torch.cat([latents, given], dim=1)[:, :, None, None])


@pytest.fixture(params=[nn.BatchNorm2d, nn.InstanceNorm2d])
def published(request) -> Published:
    torch.manual_seed(0)
    network = Published(request.param)
    network(torch.randn(64, 10), torch.arange(64) % 2)  # running statistics that are not the first ones
    with torch.no_grad():
        network.main[-2].weight.mul_(8)  # some values beyond white, many below black
    return network.eval()


def settings(file, *words: str):
    return config_of(
        "stage=sample_synthetic", "synthetic=authors_generator", f"synthetic.file={file}", *words
    )


def test_it_makes_the_images_of_the_published_network(published, tmp_path):
    """Equal values; conditions swapped, since ours are benign 0 and malignant 1. Control: not swapped."""
    torch.save(published.state_dict(), tmp_path / "generator.pt")
    ours, gan = read_published_generator(settings(tmp_path / "generator.pt"))
    assert (gan.size, gan.latent_dim, gan.generator_channels) == (64, 10, list(CHANNELS))
    # in float64: an instance norm of 4x4 values amplifies the last bits of float32
    latents, labels = torch.randn(6, 10, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 0, 1])
    published.double()
    ours.double()
    with torch.no_grad():
        expected = published(latents, 1 - labels)
        assert torch.allclose(ours(latents, labels), expected, atol=1e-6)
        other, _ = read_published_generator(
            settings(tmp_path / "generator.pt", "synthetic.malignant_condition=1")
        )
        other.double()
        assert torch.allclose(other(latents, labels), published(latents, labels), atol=1e-6)
        assert not torch.allclose(ours(latents, labels), published(latents, labels), atol=1e-3)


def test_values_are_clipped_where_the_published_code_wraps_them(published, tmp_path):
    torch.save({"state_dict": published.state_dict()}, tmp_path / "generator.pt")
    ours, gan = read_published_generator(settings(tmp_path / "generator.pt"))
    latents, labels = torch.randn(6, 10, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    published.double()
    ours.double()
    with torch.no_grad():
        values = published(latents, 1 - labels)[:, 0]
    found = sample(ours, latents, labels, gan, batch_size=6)
    assert float((values < 0).float().mean()) > 0.1
    assert bool((found[values < 0] == 0).all())
    expected = (255 * values.clamp(0, 1)).round()
    assert float((found - expected).abs().max()) <= 1  # halves round either way
    assert float((found == expected).double().mean()) > 0.999


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"main.0.weight": torch.zeros(4, 4, 4, 4)},
            r"not the published generator.*00008_C-DCGAN_MMG_MASSES",
        ),
        ({"conv.weight": torch.zeros(4, 4)}, r"not the published generator"),
        ({"epoch": torch.tensor(3.0)}, r"not the published generator"),
        ({"main.x.weight": torch.zeros(4, 4, 4, 4)}, r"not the published generator"),
        (Published().state_dict() | {"disc.0.weight": torch.zeros(4)}, r"not the published generator"),
        (
            {k: v for k, v in Published().state_dict().items() if k != "embed_nn.1.weight"},
            r"not the published",
        ),
        (Published().state_dict() | {"embed_nn.0.weight": torch.tensor(1.0)}, r"not the published generator"),
        ({"epoch": 3}, r"file of synthetic\.file holds no table of tensors"),
    ],
)
def test_another_network_is_one_sentence(content, message, tmp_path):
    torch.save(content, tmp_path / "generator.pt")
    with pytest.raises(UserError, match=message):
        read_published_generator(settings(tmp_path / "generator.pt"))


def test_a_key_that_is_missing_is_named(published, tmp_path):
    state = published.state_dict()
    del state["embed_nn.1.bias"]
    torch.save(state, tmp_path / "generator.pt")
    with pytest.raises(UserError, match=r"does not fit the published generator .*label\.linear\.bias"):
        read_published_generator(settings(tmp_path / "generator.pt"))


def test_no_file_is_one_sentence():
    with pytest.raises(UserError, match=r"synthetic\.file is missing"):
        config_of("stage=sample_synthetic", "synthetic=authors_generator")
