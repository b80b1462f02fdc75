import huggingface_hub
import pytest
import torch

from mammo_dp.errors import UserError
from mammo_dp.models import download
from mammo_dp.models.backbone import build_backbone, feature_size
from mammo_dp.models.head import build_head
from tests.conftest import config_of, shared


def test_paper_head():
    head = build_head(config_of("recipe=paper").recipe, features=768, seed=0)
    assert [tuple(p.shape) for p in head.parameters()] == [(384, 768), (384,), (2, 384), (2,)]
    assert head[1].negative_slope == 0.2
    same, other = (build_head(config_of("recipe=paper").recipe, features=768, seed=s) for s in (0, 1))
    assert torch.equal(head[0].weight, same[0].weight)
    assert not torch.equal(head[0].weight, other[0].weight)


def test_linear_head_starts_at_zero():
    head = build_head(config_of("recipe=dp_gd").recipe, features=768, seed=0)
    assert sum(p.numel() for p in head.parameters()) == 1538  # paper, Sec. 3
    assert all(p.abs().sum() == 0 for p in head.parameters())


def test_building_a_model_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_backbone(config_of("classifier=swin_micro").classifier)
    build_head(config_of().recipe, features=8, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_backbone_is_frozen_and_in_eval_mode():
    backbone = build_backbone(config_of("classifier=swin_micro").classifier)
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())
    assert feature_size(backbone) == 64
    assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, 64)


def test_random_weights_follow_their_seed():
    def first(seed: int) -> torch.Tensor:
        words = ("classifier=swin_micro", "classifier.weights=none", f"classifier.init_seed={seed}")
        return next(build_backbone(config_of(*words).classifier).parameters())

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_pth_files_load_like_safetensors(tmp_path):
    words = ("classifier=swin_micro", "classifier.weights=none", "classifier.init_seed=3")
    backbone = build_backbone(config_of(*words).classifier)
    wrapped = {
        "model": backbone.state_dict()
        | {"head.fc.weight": torch.zeros(1000, 64), "head.fc.bias": torch.zeros(1000)}
    }
    torch.save(wrapped, tmp_path / "backbone.pth")
    loaded = build_backbone(
        config_of("classifier=swin_micro", f"classifier.weights={tmp_path}/backbone.pth").classifier
    )
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), loaded.parameters(), strict=True))


def test_pickled_code_is_refused(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="tensors only"):
        build_backbone(
            config_of("classifier=swin_micro", f"classifier.weights={tmp_path}/code.pth").classifier
        )


def test_no_network_is_one_sentence(monkeypatch, tmp_path):
    """Offline, the download must fail at once and say which file to fetch."""

    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(download.socket, "getaddrinfo", no_network)
    monkeypatch.setattr(download.urllib.request, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a: None)
    with pytest.raises(
        UserError, match=r"swin_tiny_patch4_window7_224.*model\.safetensors.*classifier\.weights=FILE"
    ):
        build_backbone(config_of("classifier=swin_t", "classifier.weights=imagenet_timm").classifier)


def test_downloaded_weights_are_loaded_strictly(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    source = build_backbone(config_of("classifier=mobilenetv2", "classifier.weights=none").classifier)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *a: str(tmp_path / "model.safetensors")
    )
    words = ("classifier=mobilenetv2", "classifier.init_seed=9")
    loaded = build_backbone(config_of(*words).classifier)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))


def test_real_mobilenetv2_loads():
    path = shared() / "weights/mobilenetv2_100_imagenet.safetensors"
    backbone = build_backbone(config_of("classifier=mobilenetv2", f"classifier.weights={path}").classifier)
    assert feature_size(backbone) == 1280
