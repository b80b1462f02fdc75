"""Files of weights: torchvision's own networks are the oracle; every layout, wrapper and fault in one table."""

import argparse
import copy
import io
import pickle
import sys
import types
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from mammo_dp.errors import UserError
from mammo_dp.models import download
from mammo_dp.models.backbone import build_backbone
from mammo_dp.models.releases import RELEASES, release_name
from mammo_dp.models.weights import from_torchvision_swin, read_weights
from tests.conftest import config_of

# a Swin of four stages, small enough to be written twenty times
SMALL = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}


def classifier(path: Path):
    settings = config_of("classifier=swin_t", f"classifier.weights={path}").classifier
    return settings.model_copy(update={"backbone_args": SMALL})


@pytest.fixture(scope="module")
def theirs() -> torchvision.models.SwinTransformer:
    """torchvision's network with random weights, classification layer included."""
    torch.manual_seed(0)
    network = torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=[7, 7]
    )
    for parameter in network.parameters():  # none at its starting value
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return network.eval()


def pooled(network: torchvision.models.SwinTransformer, x: torch.Tensor) -> torch.Tensor:
    headless = copy.deepcopy(network)
    headless.head = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        return headless(x)


def in_timm(network: torchvision.models.SwinTransformer) -> dict[str, torch.Tensor]:
    return from_torchvision_swin(network.state_dict())


def in_microsoft(network: torchvision.models.SwinTransformer) -> dict[str, torch.Tensor]:
    """The official repository's names: merging belongs to the stage before it, and buffers are stored."""
    state = {}
    for key, tensor in in_timm(network).items():
        for stage in (1, 2, 3):
            key = key.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.DOWN")
        state[key.replace("DOWN", "downsample").replace("head.fc.", "head.")] = tensor
    for stage in range(4):
        state[f"layers.{stage}.blocks.0.attn.relative_position_index"] = torch.zeros(
            49, 49, dtype=torch.int64
        )
    state["layers.0.blocks.0.attn_mask"] = torch.zeros(64, 49, 49)
    return state


class CfgNode(dict):
    """As yacs has it: a dict that has attributes too, pickled by its class's name."""

    def __init__(self, *given):
        super().__init__(*given)
        self.__dict__["__immutable__"] = False


def microsoft_checkpoint(network) -> dict[str, object]:
    """What the official training script saves, which RadImageNet's Swin-T was trained with."""
    settings = CfgNode({"MODEL": CfgNode({"TYPE": "swin", "DROP_PATH_RATE": 0.2}), "EPOCHS": 300})
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    return {
        "model": in_microsoft(network),
        "optimizer": optimizer,
        "max_accuracy": 81.2,
        "epoch": 299,
        "config": settings,
    }


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def spoilt(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor + 1 for key, tensor in state.items() if tensor.is_floating_point()}


GOOD = {
    "torchvision": lambda n: n.state_dict(),
    "torchvision under module.": lambda n: under("module.", n.state_dict()),
    "torchvision after compilation and parallel": lambda n: under("_orig_mod.module.", n.state_dict()),
    "torchvision in model_state_dict": lambda n: {"model_state_dict": n.state_dict(), "epoch": 3},
    "torchvision in half precision": lambda n: {
        k: v.half() if v.is_floating_point() else v for k, v in n.state_dict().items()
    },
    "torchvision without its classification layer": lambda n: {
        k: v for k, v in n.state_dict().items() if k[:4] != "head"
    },
    "Microsoft": in_microsoft,
    "Microsoft's and RadImageNet's checkpoint": microsoft_checkpoint,
    "Microsoft, without a classification layer": lambda n: {
        k: v for k, v in in_microsoft(n).items() if k[:4] != "head"
    },
    "timm": in_timm,
    "timm under model.": lambda n: {
        "state_dict": under("model.", in_timm(n)),
        "args": argparse.Namespace(lr=1),
    },
    "timm under backbone., with another head beside it": lambda n: (
        under("backbone.", in_timm(n)) | {"fc.weight": torch.zeros(2, 128)}
    ),
    "timm under swin.": lambda n: {"net": under("swin.", in_timm(n))},
    "a running mean beside other weights": lambda n: {
        "state_dict": spoilt(in_timm(n)),
        "state_dict_ema": in_timm(n),
    },
    "an empty running mean, and settings of one": lambda n: {
        "state_dict_ema": {},
        "model_ema": {"decay": torch.tensor(0.9)},
        "state_dict": in_timm(n),
    },
    "wrapped twice": lambda n: {"model": {"state_dict": under("module.backbone.", in_timm(n))}},
}


@pytest.mark.parametrize("name", GOOD)
def test_every_layout_gives_torchvisions_features(name, theirs, tmp_path, monkeypatch):
    """Difference 0.0; in half precision, of torchvision's network with the same rounded weights."""
    yacs = types.ModuleType("yacs.config")
    yacs.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setattr(CfgNode, "__module__", "yacs.config")
    with pytest.MonkeyPatch.context() as there:  # at saving alone: the package need not be here
        there.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        there.setitem(sys.modules, "yacs.config", yacs)
        torch.save(GOOD[name](theirs), tmp_path / "weights.pth")
    expected = theirs
    if "half" in name:
        expected = copy.deepcopy(theirs)
        expected.load_state_dict({k: v.half().to(v.dtype) for k, v in theirs.state_dict().items()})
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = build_backbone(classifier(tmp_path / "weights.pth"))(x)
    assert float((found - pooled(expected, x)).abs().max()) == 0.0


def test_safetensors_too(theirs, tmp_path):
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, tmp_path / "weights.safetensors")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found = build_backbone(classifier(tmp_path / "weights.safetensors"))(x)
    assert float((found - pooled(theirs, x)).abs().max()) == 0.0


def test_the_papers_network_is_torchvisions(tmp_path):
    """Swin-T at full size: pooled features and logits differ by 0.0. Control: other weights do not."""
    torch.manual_seed(1)
    theirs = torchvision.models.swin_t().eval()
    torch.save(theirs.state_dict(), tmp_path / "swin_t.pth")
    ours = build_backbone(
        config_of("classifier=swin_t", f"classifier.weights={tmp_path}/swin_t.pth").classifier
    )
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = ours(x)
        assert float((theirs.head(found) - theirs(x)).abs().max()) == 0.0
        assert float((found - pooled(theirs, x)).abs().max()) == 0.0
        other = build_backbone(config_of("classifier=swin_t", "classifier.weights=none").classifier)
        assert float((other(x) - found).abs().max()) > 0.01


# --- what is refused ------------------------------------------------------------------------------------------------


def nan_in_one(network) -> dict[str, torch.Tensor]:
    state = {k: v.clone() for k, v in in_timm(network).items()}
    state["layers.2.blocks.0.mlp.fc1.weight"][0, 0] = float("nan")
    return state


def torch_bytes(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


class Surprise:
    def __reduce__(self):
        return print, ("code of the file ran",)


def looped() -> dict[str, object]:
    content: dict[str, object] = {"epoch": 1}
    content["model"] = content
    return content


BAD = {
    "a key is missing": (
        lambda n: {k: v for k, v in in_timm(n).items() if k != "norm.weight"},
        r"lacks key norm\.weight; .*timm's Swin",
    ),
    "a key too many": (lambda n: in_timm(n) | {"layers.9.x": torch.zeros(1)}, r"unknown key layers\.9\.x"),
    "another width": (
        lambda n: in_timm(n) | {"norm.weight": torch.zeros(96)},
        r"norm\.weight .*has shape \(96,\).*\(128,\)",
    ),
    "not a number": (nan_in_one, r"key layers\.2\.blocks\.0\.mlp\.fc1\.weight .*not finite"),
    "infinite": (
        lambda n: in_timm(n) | {"norm.bias": torch.full((128,), float("inf"))},
        r"norm\.bias .*not finite",
    ),
    "a ResNet": (lambda n: torchvision.models.resnet18().state_dict(), r"layout of a ResNet;"),
    "torchvision's MobileNet": (
        lambda n: torchvision.models.mobilenet_v2().state_dict(),
        r"torchvision's MobileNet, EfficientNet or VGG",
    ),
    "a vision transformer": (
        lambda n: timm.create_model("vit_tiny_patch16_224").state_dict(),
        r"a vision transformer",
    ),
    "Swin v2": (lambda n: {"layers.0.blocks.0.attn.logit_scale": torch.zeros(1)}, r"layout of Swin v2"),
    "the transformers library's Swin": (
        lambda n: {"swin.layers.0.blocks.0.attention.self.query.weight": torch.zeros(1)},
        r"the transformers library's Swin",
    ),
    "another window": (
        lambda n: (
            in_timm(n) | {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(23 * 23, 1)}
        ),
        r"relative_position_bias_table .*has shape \(529, 1\).*\(169, 1\)",
    ),
    "somebody's own network": (lambda n: {"stem.weight": torch.zeros(1)}, r"first key is stem\.weight"),
    "no tensors": (lambda n: {"epoch": 3}, r"no table of tensors"),
    "nothing": (lambda n: {}, r"layout of no network"),
    "one key twice, with and without a prefix": (
        lambda n: under("backbone.", in_timm(n)) | {"norm.weight": torch.full((128,), 9.0)},
        r"holds both backbone\.norm\.weight and norm\.weight",
    ),
    "tensors named by numbers": (lambda n: {1: torch.zeros(2, 2)}, r"otherwise than by words"),
    "sparse": (
        lambda n: in_timm(n) | {"norm.bias": torch.zeros(128).to_sparse()},
        r"norm\.bias .* is sparse",
    ),
    "complex": (
        lambda n: in_timm(n) | {"norm.bias": torch.zeros(128) + 1j},
        r"norm\.bias .* is sparse, quantized, complex",
    ),
    "whole numbers": (
        lambda n: in_timm(n) | {"norm.bias": torch.zeros(128).to(torch.int8)},
        r"norm\.bias .* whole numbers",
    ),
    "an unknown part of torchvision's Swin": (
        lambda n: dict(n.state_dict()) | {"features.0.1.weight": torch.zeros(1)},
        r"does not fit swin_tiny",
    ),
    "itself": (lambda n: looped(), r"no table of tensors"),
    "code": (lambda n: {"model": Surprise()}, r"tensors only"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_sentence(name, theirs, tmp_path, capsys):
    make, message = BAD[name]
    torch.save(make(theirs), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(classifier(tmp_path / "weights.pth"))
    assert len(str(caught.value).splitlines()) == 1
    assert "\x1b" not in str(caught.value)
    assert "code of the file ran" not in capsys.readouterr().out


TENSORS = {"norm.weight": torch.zeros(2)}
FILES = {
    "a pointer of Git LFS": (
        "x.pth",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        r"Git LFS",
    ),
    "a web page": ("x.pth", b"<!DOCTYPE html><html><body>Sign in</body></html>", r"web page"),
    "an empty file": ("x.pth", b"", r"has 0 bytes"),
    "Keras": ("x.pth", b"\x89HDF\r\n\x1a\n" + bytes(100), r"HDF5 file of Keras"),
    "cut short": ("x.pth", torch_bytes(TENSORS)[:300], r"cannot be read"),
    "a pickle that is cut short": ("x.pth", b"\x80\x02." + bytes(20), r"file of classifier\.weights"),
    "noise": (
        "x.pth",
        bytes(range(256)),
        r"file of classifier\.weights holds more than tensors, or is damaged",
    ),
    "a pickle of a list": ("x.pth", pickle.dumps([1, 2, 3]), r"file of classifier\.weights (holds|cannot)"),
    "torch.save named safetensors": (
        "x.safetensors",
        torch_bytes(TENSORS),
        r"torch\.save by its content.*rename it to x\.pth",
    ),
    "noise named safetensors": ("x.safetensors", bytes(range(256)), r"cannot be read"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_weights_are_one_sentence(name, tmp_path):
    file, content, message = FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_weights(tmp_path / file)
    assert len(str(caught.value).splitlines()) == 1


def test_safetensors_under_another_name(tmp_path):
    save_file(TENSORS, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"safetensors by its content.*rename it to x\.safetensors"):
        read_weights(tmp_path / "x.pth")


# --- named weights --------------------------------------------------------------------------------------------------


def test_the_papers_weights_are_torchvisions(monkeypatch, tmp_path):
    """classifier.weights=imagenet of Swin-T: torchvision's url and hash; without a network one sentence names it."""

    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(download.socket, "getaddrinfo", no_network)
    monkeypatch.setattr(download.urllib.request, "getproxies", dict)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.Swin_T_Weights.IMAGENET1K_V1.url
    with pytest.raises(
        UserError, match=r"swin_tiny_patch4_window7_224 could not be downloaded.*classifier\.weights=FILE"
    ) as caught:
        build_backbone(config_of("classifier=swin_t").classifier)
    assert url in str(caught.value)
    # the file where torch.hub keeps it is taken
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(2)
    theirs = torchvision.models.swin_t().eval()
    torch.save(theirs.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    ours = build_backbone(config_of("classifier=swin_t").classifier)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert float((ours(x) - pooled(theirs, x)).abs().max()) == 0.0


def test_names_of_weights_tell_timms_and_torchvisions_apart():
    names = {
        words: config_of(*words).classifier.named_weights
        for words in (
            ("classifier=swin_t",),
            ("classifier=swin_t", "classifier.weights=imagenet_timm"),
            ("classifier=mobilenetv2",),
            ("classifier=swin_t", "classifier.weights=none"),
        )
    }
    assert list(names.values()) == [
        "torchvision Swin_T_Weights.IMAGENET1K_V1",
        "imagenet",
        "imagenet",
        "random, seed 0",
    ]


def test_releases_are_torchvisions_by_its_own_file_names():
    known = {}
    for name in ("swin_t", "mobilenet_v2", "resnet50"):
        for weights in torchvision.models.get_model_weights(name):
            known[weights.url.rpartition("-")[2].removesuffix(".pth")] = f"torchvision {weights}"
    assert known.items() >= RELEASES.items()
    assert release_name("704ceda3" + 56 * "0") == "torchvision Swin_T_Weights.IMAGENET1K_V1"
    assert release_name(64 * "0") is None
