"""The generator that the paper's authors published (medigan model 00008_C-DCGAN_MMG_MASSES): its file as our network.

Its state dict is flat: `main.0`, `main.3`, ... are the transposed convolutions, each followed by its norm (`main.1`,
...; without keys where it is an instance norm) and a ReLU; `embed_nn.0` is the embedding of the condition and
`embed_nn.1` the linear layer behind it.
"""

import re
from pathlib import Path

import torch

from mammo_dp.config import Config
from mammo_dp.config.schema import Gan
from mammo_dp.errors import UserError
from mammo_dp.models.mcgan import CLASSES, Generator
from mammo_dp.models.weights import read_weights

EMBEDDING, LINEAR = MATRICES = ("embed_nn.0.weight", "embed_nn.1.weight")
KEY = re.compile(r"main\.\d+\.\w+|embed_nn\.[01]\.\w+")


def read_published_generator(config: Config) -> tuple[Generator, Gan]:
    """The generator in synthetic.file, in eval mode, and the settings that it was made with, as far as they show.

    Its images lie in [0, 1], as the published code's and its released images do. Raises UserError for another network.
    """
    settings = config.synthetic
    stored = read_weights(Path(str(settings.file)), setting="synthetic.file")
    kernels = {int(k.split(".")[1]): t for k, t in stored.items() if KEY.fullmatch(k) and t.ndim == 4}
    layers = [3 * k for k in range(len(kernels))]
    known = all(KEY.fullmatch(key) for key in stored) and all(t.is_floating_point() for t in kernels.values())
    embedded = [tuple(stored[key].shape) for key in MATRICES if key in stored and stored[key].ndim == 2]
    if (
        not known
        or sorted(kernels) != layers
        or len(layers) < 2
        or len(embedded) < 2
        or embedded[0][0] != CLASSES
    ):
        raise UserError(
            "synthetic.file is not the published generator: main.0, main.3, ... should be its transposed convolutions "
            "and embed_nn.0 the embedding of two conditions; give the file of medigan's 00008_C-DCGAN_MMG_MASSES"
        )
    given = embedded[1][0]
    shown = {
        "size": 4 * 2 ** (len(layers) - 1),
        "latent_dim": int(kernels[0].shape[0]) - given,
        "label_channels": given,
        "label_dim": embedded[0][1],
        "label_injection": "embedding",
        "generator_channels": [int(kernels[k].shape[1]) for k in layers[:-1]],
        "generator_kernel": 4,
        "norm": "batch" if "main.1.running_mean" in stored else "instance",
        "image_range": [0.0, 1.0],
    }
    gan = config.gan.model_copy(update=shown)
    generator = Generator(gan)
    try:
        generator.load_state_dict(_renamed(stored, last=layers[-1], malignant=settings.malignant_condition))
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise UserError(
            f"synthetic.file does not fit the published generator ({fault}); fetch it again"
        ) from None
    return generator.eval().requires_grad_(False), gan


def _renamed(stored: dict[str, torch.Tensor], *, last: int, malignant: int) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, tensor in stored.items():
        group, number, rest = key.split(".", 2)
        if group == "embed_nn":
            if key == EMBEDDING and malignant == 0:
                tensor = tensor.flip(0)  # ours: benign, malignant
            renamed[f"label.{('embedding', 'linear')[int(number)]}.{rest}"] = tensor
        else:
            block, part = divmod(int(number), 3)
            renamed[f"blocks.{block}.{rest}" if int(number) == last else f"blocks.{block}.{part}.{rest}"] = (
                tensor
            )
    return renamed
