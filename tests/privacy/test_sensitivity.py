"""How far one unit moves the un-noised sum, through the trainer itself: at most what the adjacency states."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_dp.config import Config
from mammo_dp.config.schema import Recipe
from mammo_dp.models.head import build_head
from mammo_dp.privacy.events import SENSITIVITY
from mammo_dp.privacy.mechanism import grid_step
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.features import CachedFeatures
from mammo_dp.training.head_trainer import HeadTrainer
from mammo_dp.training.plans import make_plan
from tests.conftest import AS_IT_IS, calibrations, config_of

D = 6
IMAGES = (1, 2, 14, 1, 3, 2)  # of each patient; one has 14, as in CBIS-DDSM
OWNERS = np.repeat(np.arange(len(IMAGES)), IMAGES)


@dataclass(frozen=True)
class Study:
    """features (n, 4, d); labels (n,); owners (n,) patients, some of whom may have no image."""

    features: torch.Tensor
    labels: torch.Tensor
    owners: np.ndarray
    patients: int = len(IMAGES)

    def units(self, unit: str) -> Units:
        positions = range(len(self.owners))
        if unit == "image":
            return Units.of_each(positions)
        return Units([[p for p in positions if self.owners[p] == who] for who in range(self.patients)])


def study(seed: int, scale: float) -> Study:
    g = torch.Generator().manual_seed(seed)
    n = len(OWNERS)
    features = scale * torch.randn(n, 4, D, generator=g, dtype=torch.float64)
    return Study(features, torch.randint(2, (n,), generator=g), OWNERS)


@cache
def base(adjacency: str) -> Config:
    return config_of("recipe=dp_gd", "privacy.public_count=25", "privacy.delta=0.001",
                     f"privacy.adjacency={adjacency}")  # fmt: skip


def unnoised_sum(
    found: Study,
    unit: str,
    tmp_path,
    *,
    norm: float,
    head: str = "linear",
    adjacency: str = "add_remove",
    weights: float = 1.0,
) -> torch.Tensor:
    """The exact clipped sum of the first step, with random weights, in grid steps."""
    config = base(adjacency)
    changes = {"max_grad_norm": norm, "head": head, "zero_init": False}
    recipe = config.recipe.model_copy(update=changes)
    privacy = config.privacy.model_copy(update={"unit": unit})
    config = config.model_copy(update={"recipe": recipe, "privacy": privacy})
    units = found.units(unit)
    module = some_head(recipe, weights)
    trainer = HeadTrainer(
        module, CachedFeatures(found.features, prepare=AS_IT_IS), units, found.labels,
        plan=make_plan(config, units=len(units), cache=calibrations()), recipe=config.recipe,
        randomness=Randomness(secure=True, seed=0, run="run"), device=torch.device("cpu"),
    )  # fmt: skip
    total = trainer.private_sum(torch.arange(len(units)))
    return torch.cat([part.flatten() for block in total.blocks for part in (block[:, :-1], block[:, -1])])


def some_head(recipe: Recipe, weights: float = 1.0) -> torch.nn.Sequential:
    module = build_head(recipe, features=D, seed=1).double()
    g = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.data = weights * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    return module


def changed(found: Study, unit: str, who: int, how: str, seed: int, scale: float) -> Study:
    """The study without one unit, with that unit null (there, but without content), or with other content and label."""
    mine = np.equal(OWNERS, who)
    if unit == "image":
        mine = np.arange(len(OWNERS)) == np.flatnonzero(mine)[-1]
    if how != "replace":
        kept = torch.from_numpy(~mine)
        patients = found.patients  # a null patient is a unit without images; a removed one is no unit at all
        owners = found.owners[~mine]
        if how == "remove" and unit == "patient":
            owners, patients = np.where(owners > who, owners - 1, owners), patients - 1
        return Study(found.features[kept], found.labels[kept], owners, patients)
    other = study(seed + 1, scale)
    mine_t = torch.from_numpy(mine)
    features = torch.where(mine_t[:, None, None], other.features, found.features)
    return Study(features, torch.where(mine_t, 1 - found.labels, found.labels), found.owners)


CHANGES = {"add_remove": "remove", "zero_out": "null", "replace": "replace"}


def exact_square(moved: torch.Tensor) -> int:
    return sum(int(k) ** 2 for k in moved.tolist())


def bound_squared(norm: float, sensitivity: float) -> Fraction:
    """(sensitivity C / g)^2: what the accountants get, in grid steps."""
    return (Fraction(sensitivity) * Fraction(norm) / Fraction(grid_step(norm))) ** 2


@settings(max_examples=50, deadline=None)
@given(
    who=st.integers(0, len(IMAGES) - 1), seed=st.integers(0, 10**6), scale=st.floats(0.01, 1000),
    norm=st.sampled_from([0.05, 0.5, 3.0]), head=st.sampled_from(["linear", "mlp"]),
)  # fmt: skip
@pytest.mark.parametrize("unit", ["image", "patient"])
@pytest.mark.parametrize("adjacency", list(CHANGES))
def test_one_unit_moves_the_sum_by_at_most_the_stated_sensitivity(
    unit, adjacency, who, seed, scale, norm, head, tmp_path_factory
):
    settings = {"norm": norm, "head": head, "adjacency": adjacency}
    before = study(seed, scale)
    after = changed(before, unit, who, CHANGES[adjacency], seed, scale)
    place = tmp_path_factory.getbasetemp()
    moved = unnoised_sum(before, unit, place, **settings) - unnoised_sum(after, unit, place, **settings)
    assert exact_square(moved) <= bound_squared(norm, SENSITIVITY[adjacency])


def test_the_bound_is_met(tmp_path):
    """Negative control: a large gradient moves the sum by C itself, and the opposite label by 2C."""
    found = study(0, 1000.0)
    removed = changed(found, "patient", 0, "remove", 0, 1000.0)
    labels = found.labels.clone()
    labels[0] = 1 - labels[0]
    flipped = Study(found.features, labels, OWNERS)
    for other, expected in ((removed, 0.5), (flipped, 1.0)):
        sums = [unnoised_sum(s, "patient", tmp_path, norm=0.5, weights=0.0) for s in (found, other)]
        assert (sums[0] - sums[1]).double().norm() * grid_step(0.5) == pytest.approx(expected, rel=1e-4)


def test_clipping_each_image_does_not_protect_a_patient(tmp_path):
    """Negative control: at image level, a patient of 14 images moves the sum by more than C."""
    found = study(0, 1000.0)
    after = changed(found, "patient", 2, "remove", 0, 1000.0)
    moved = unnoised_sum(found, "image", tmp_path, norm=0.5) - unnoised_sum(
        after, "image", tmp_path, norm=0.5
    )
    assert moved.double().norm() * grid_step(0.5) > 0.5 * 1.5


def test_a_patient_is_the_mean_of_all_images_and_flips(tmp_path):
    """Without clipping at work: the patient's gradient by plain autograd on the mean loss."""
    found = study(3, 1.0)
    total = unnoised_sum(found, "patient", tmp_path, norm=100.0).double() * grid_step(100.0)
    head = some_head(base("add_remove").recipe)
    loss = torch.zeros((), dtype=torch.float64)
    for who in range(len(IMAGES)):
        mine = np.equal(OWNERS, who)
        rows = found.features[mine].flatten(0, 1)
        loss = loss + torch.nn.functional.cross_entropy(head(rows), found.labels[mine].repeat_interleave(4))
    loss.backward()
    torch.testing.assert_close(
        total, torch.cat([p.grad.flatten() for p in head.parameters()]), rtol=1e-3, atol=1e-3
    )
