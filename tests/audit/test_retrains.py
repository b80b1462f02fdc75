"""The batch of heads against the trainer of one: the same numbers for each model, whatever the unit and the recipe."""

import numpy as np
import pytest
import torch

from mammo_dp.audit.retrains import Rows, retrain
from mammo_dp.models.head import build_head
from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.features import CachedFeatures
from mammo_dp.training.head_trainer import HeadTrainer
from mammo_dp.training.plans import Plan
from tests.conftest import AS_IT_IS, config_of

IMAGES, FEATURES, STEPS, MODELS, FLIPS = 24, 5, 12, 3, 4
PATIENTS = [str(image // 3) for image in range(IMAGES)]


def problem():
    g = torch.Generator().manual_seed(1)
    table = torch.randn(IMAGES, FLIPS, FEATURES, generator=g)
    labels = torch.randint(2, (IMAGES,), generator=g)
    members = torch.rand(IMAGES, MODELS, generator=g) < 0.6
    return table, labels, members


def groups_of(units: Units, table: torch.Tensor, labels: torch.Tensor) -> list[Rows]:
    found = []
    for positions in units.by_size(torch.arange(len(units))):
        each = positions.repeat_interleave(FLIPS, dim=1)
        found.append(Rows.of(table[positions].flatten(1, 2), labels[each], each))
    return found


def one_by_one(table, labels, members, *, unit, recipe, mechanism, start) -> torch.Tensor:
    """(d + 1, models) as HeadTrainer leaves them, which shares no line of arithmetic with the batch."""
    found = []
    for chosen in members.T:
        positions = np.flatnonzero(chosen.numpy())
        patients = [PATIENTS[p] for p in positions]
        units = Units.grouped(positions, patients) if unit == "patient" else Units.of_each(positions)
        head = build_head(recipe, features=FEATURES, seed=0)
        head.load_state_dict(start)
        trainer = HeadTrainer(
            head, CachedFeatures(table, prepare=AS_IT_IS), units, labels,
            plan=Plan(STEPS, 1, mechanism, first_eligible_step=0, public_count=10), recipe=recipe,
            randomness=Randomness(secure=False, seed=0, run=""), device=torch.device("cpu"),
        )  # fmt: skip
        for _ in range(STEPS):
            trainer.step()
        state, _ = trainer.selection.selected()
        difference = torch.cat([state["0.weight"], state["0.bias"][:, None]], dim=1)
        found.append(difference[1] - difference[0])
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("unit", ["image", "patient"])
@pytest.mark.parametrize("select", ["last", "average", "ema"])
def test_equals_the_trainer_of_one_head(private, unit, select):
    table, labels, members = problem()
    words = (
        "recipe.max_grad_norm=0.7",
        "recipe.weight_decay=0.01",
        "recipe.label_smoothing=0.1",
        "recipe.lr=2.0",
    )
    recipe = config_of("recipe=dp_gd", f"recipe.select={select}", "recipe.zero_init=false", *words).recipe
    head = build_head(recipe, features=FEATURES, seed=0)
    start = {key: value.clone() for key, value in head.state_dict().items()}
    mechanism = Mechanism(1.0, 0.0, STEPS) if private else None
    expected = one_by_one(table, labels, members, unit=unit, recipe=recipe, mechanism=mechanism, start=start)
    units = Units.grouped(range(IMAGES), PATIENTS) if unit == "patient" else Units.of_each(range(IMAGES))
    both = torch.cat([start["0.weight"], start["0.bias"][:, None]], dim=1)
    found = retrain(
        groups_of(units, table, labels), members, mechanism=mechanism, steps=STEPS, count=10, recipe=recipe, lr=2.0,
        start=both[1] - both[0], generator=torch.Generator(),
    )  # fmt: skip
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - (both[1] - both[0])[:, None]).abs().max() > 0.1


def test_noise_has_the_scale_of_two_weights_less_each_other():
    table, labels, _ = problem()
    recipe = config_of("recipe=dp_gd", "recipe.lr=1.0", "recipe.momentum=0.0", "recipe.select=last").recipe
    nobody = torch.zeros(IMAGES, 4000, dtype=torch.bool)
    found = retrain(
        groups_of(Units.of_each(range(IMAGES)), table, labels), nobody, mechanism=Mechanism(1.0, 3.0, 4), steps=4,
        count=10, recipe=recipe, lr=1.0, start=torch.zeros(FEATURES + 1), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    sigma_c = 3.0 * recipe.max_grad_norm / 10
    assert found.std().item() == pytest.approx(2**0.5 * sigma_c * 4**0.5, rel=0.02)
