"""Whether a backbone can do what is asked of it, checked before anything is built."""

import json
from functools import cache

import torch

from mammo_dp.config.schema import Classifier
from mammo_dp.errors import UserError
from mammo_dp.models.classifier import build_backbone, take_norm
from mammo_dp.training.features import with_stochastic_depth


def check_backbone(settings: Classifier) -> None:
    """Raise UserError if it does not take its inputs, or cannot train or draw what `settings` ask for.

    By its architecture alone, with random weights: those of synpre may still be to come.
    """
    _check(json.dumps(settings.model_copy(update={"weights": "none"}).model_dump()))


@cache  # a sweep asks for the same one many times
def _check(settings_json: str) -> None:
    settings = Classifier(**json.loads(settings_json))
    backbone, size = build_backbone(settings), settings.input_size
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, 3, size, size))
    except Exception as error:  # each model refuses a wrong size in its own way
        raise UserError(
            f"{settings.backbone} does not take classifier.input_size={size} ({error}); "
            "change it, or the model's own size in classifier.backbone_args"
        ) from None
    if settings.trainable == "norm_head":
        take_norm(backbone, settings)
    if settings.backbone_mode == "train":
        with_stochastic_depth(backbone)
