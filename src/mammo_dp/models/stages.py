"""Features of every stage of a backbone, fine to coarse, instead of its last alone."""

import torch
from torch import nn
from torch.nn import functional

from mammo_dp.errors import UserError


class StageFeatures(nn.Module):
    """(n, 3, s, s) -> (n, d): pooled maps of all stages and the backbone's own features, one after the other.

    Each part is layer-normalised and scaled to unit length by itself, so that none drowns the others; that looks at one
    image alone and costs no privacy. Linear heads on intermediate features: Evci et al. 2022 (Head2Toe).
    """

    def __init__(self, backbone: nn.Module, *, input_size: int) -> None:
        super().__init__()
        if not hasattr(backbone, "forward_intermediates"):
            raise UserError(
                f"classifier.features=stages needs a backbone with stages, and {type(backbone).__name__} does "
                "not; use classifier.features=last"
            )
        self.backbone = backbone
        with torch.no_grad():
            self.num_features = self(torch.zeros(1, 3, input_size, input_size)).shape[1]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        last, maps = self.backbone.forward_intermediates(inputs)  # type: ignore[operator]
        parts = [m.mean(dim=(2, 3)) for m in maps] + [self.backbone.forward_head(last)]  # type: ignore[operator]
        parts = [functional.normalize(functional.layer_norm(p, p.shape[-1:]), dim=-1) for p in parts]
        return torch.cat(parts, dim=1)
