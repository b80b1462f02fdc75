"""Per-unit gradients of a whole network, by torch.func.

vmap over grad of a functional call is exact for every layer that treats each image by itself: nothing depends on hooks,
which can take windows or tokens for images. A unit's gradient is the mean over its images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from mammo_dp.privacy.clipping import clip_factors
from mammo_dp.privacy.gradients import check_units

Loss = Callable[..., torch.Tensor]  # (network's output, this image's target) -> scalar


def check_no_batch_statistics(network: nn.Module) -> None:
    """Refuse layers whose output for one image depends on others, or that gather statistics. Raises ValueError.

    In eval mode a batch normalisation uses the statistics that it came with, which treats each image by itself.
    """
    for name, module in network.named_modules():
        keeps = isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False)
        if keeps and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name} ({type(module).__name__}) has statistics of a batch: one image would enter the gradients of "
                "others, and clipping would bound nothing"
            )


def images_at_once(
    network: nn.Module,
    loss: Loss,
    image: Sequence[torch.Tensor],
    target: torch.Tensor,
    *,
    memory_limit: float,
) -> int:
    """How many images may be differentiated together within `memory_limit` GiB; at least one.

    image: one image of what `unit_gradients` takes, (1, ...) each. An image holds what its backward pass needs,
    which a forward pass counts, and its gradient, which is there twice while it is added up.
    """
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss(network(*image), target)
    del value
    gradient = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    return max(1, int(memory_limit * 2**30 / (sum(kept.values()) + 2 * gradient)))


def image_gradients(
    network: nn.Module, loss: Loss, inputs: Sequence[torch.Tensor], targets: torch.Tensor
) -> list[torch.Tensor]:
    """(images, ...) gradient of each image's own loss, for each parameter that trains.

    Raises ValueError if the first dimension of what comes back is not the images.
    """
    parameters = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}

    def of_one(values: dict[str, torch.Tensor], target: torch.Tensor, *image: torch.Tensor) -> torch.Tensor:
        return loss(functional_call(network, values, tuple(x[None] for x in image)), target[None])

    per_image = vmap(grad(of_one), in_dims=(None, 0, *(0 for _ in inputs)))
    gradients = list(per_image(parameters, targets, *inputs).values())
    check_units(len(targets), gradients)
    return gradients


def unit_gradients(
    network: nn.Module,
    loss: Loss,
    inputs: Sequence[torch.Tensor],
    targets: torch.Tensor,
    sizes: torch.Tensor,
    *,
    at_once: int,
    alone: bool = False,
) -> Iterator[list[torch.Tensor]]:
    """Mean gradients of some units after others: (units, ...) for each parameter that trains.

    inputs: tensors of (images, ...), what the network takes; targets: (images,). The images of a unit stand together;
    sizes: (units,) how many each has, at least one. `at_once` images are differentiated at a time, and each holds a
    gradient as large as the network. `alone`: one unit at a time, so that no bit of its gradient depends on others;
    kernels for several images do not promise that.
    """
    for first, last, belongs in _groups(sizes, 1 if alone else at_once):
        sums: list[torch.Tensor] = []
        counts = torch.bincount(belongs).to(targets.device)
        for start in range(first, last, at_once):
            part = slice(start, min(start + at_once, last))
            gradients = image_gradients(network, loss, [x[part] for x in inputs], targets[part])
            if last - first == len(counts):  # one image each: nothing to add up
                sums = gradients
                continue
            rows = belongs[start - first : part.stop - first].to(targets.device)
            sums = sums or [g.new_zeros(len(counts), *g.shape[1:]) for g in gradients]
            for added, g in zip(sums, gradients, strict=True):
                added.index_add_(0, rows, g)
        if sums:
            yield [s / counts.view(-1, *(1 for _ in s.shape[1:])) for s in sums]


def clipped_sum(
    network: nn.Module, means: Iterable[list[torch.Tensor]], *, max_grad_norm: float
) -> list[torch.Tensor]:
    """The sum of clipped gradients in float32, for each parameter that trains. For what is not private."""
    total = [torch.zeros_like(p) for p in network.parameters() if p.requires_grad]
    for gradients in means:
        each = [torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.float64) for g in gradients]
        factors = clip_factors(torch.linalg.vector_norm(torch.stack(each), dim=0), max_grad_norm)
        for into, g in zip(total, gradients, strict=True):
            into += (factors.to(g.dtype) @ g.flatten(1)).view_as(into)
    return total


def _groups(sizes: torch.Tensor, at_once: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Whole units, about `at_once` images at a time: first image, last image + 1, (images,) number of the unit."""
    first, units, images = 0, [], 0
    for size in sizes.tolist():
        if units and images + size > at_once:
            yield first, first + images, torch.repeat_interleave(torch.tensor(units))
            first, units, images = first + images, [], 0
        units.append(size)
        images += size
    if units:
        yield first, first + images, torch.repeat_interleave(torch.tensor(units))
