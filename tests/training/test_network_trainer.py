"""Training every parameter: against plain torch, resume, and what must not be trained so."""

import numpy as np
import pytest
import torch
from torch import nn

from mammo_dp.data.transforms import flip
from mammo_dp.models.preparation import Preparation
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.network_trainer import Network, NetworkTrainer
from mammo_dp.training.plans import make_plan
from tests.conftest import calibrations, config_of

pytestmark = pytest.mark.slow

SIZE = 16


class Backbone(nn.Module):
    """A small backbone with layers that draw for themselves, and one with statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.conv(inputs)).relu().mean(dim=(2, 3)))


def trainer_of(tmp_path, *words: str, patients: bool = False, epsilon: str = "inf") -> NetworkTrainer:
    config = config_of("dataset=toy", "recipe=paper", f"classifier.input_size={SIZE}", "recipe.lr=0.01",
                       "recipe.epochs=3", "recipe.batch_size=8", f"privacy.epsilon={epsilon}",
                       "classifier.trainable=all",
                       "privacy.public_count=20", "privacy.accountant=rdp", "privacy.delta=0.01", *words)  # fmt: skip
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(2, size=20))
    images = (rng.integers(0, 128, size=(20, SIZE, SIZE)) + 100 * labels.numpy()[:, None, None]).astype(
        np.uint8
    )
    units = Units([[0, 1, 2], *([i] for i in range(3, 20))]) if patients else Units.of_each(range(20))
    torch.manual_seed(0)
    return NetworkTrainer(
        Network(
            Backbone(), nn.Sequential(nn.Linear(4, 2)), prepare=Preparation.of(config.recipe.model_dump())
        ),
        images,
        units,
        labels,
        plan=make_plan(config, units=len(units), cache=calibrations()),
        recipe=config.recipe,
        classifier=config.classifier,
        runtime=config.runtime,
        randomness=Randomness(secure=False, seed=1, run="run"),
        device=torch.device("cpu"),
    )


def flat(trainer: NetworkTrainer) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in trainer.network.state_dict().values()])


def test_every_parameter_moves_and_it_learns(tmp_path):
    trainer = trainer_of(tmp_path, "recipe.epochs=40")
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    for _ in range(trainer.plan.steps):
        trainer.step()
    assert all((p != before[name]).any() for name, p in trainer.network.named_parameters())
    scores = trainer.scores(np.arange(20), test_flips=True)
    labels = trainer.labels.numpy()
    assert scores[labels == 1].min() > scores[labels == 0].max()
    assert np.array_equal(scores, trainer.scores(np.arange(20), test_flips=True))  # no layer draws here


@pytest.mark.parametrize("select", ["last", "average", "best_val"])
@pytest.mark.parametrize("stop", [1, 4])
def test_resume_is_bit_identical(tmp_path, select, stop):
    def on(trainer: NetworkTrainer, steps: int) -> None:
        for _ in range(steps):
            trainer.step()
            trainer.selection.consider(
                trainer.labels.numpy(), trainer.scores(np.arange(20), test_flips=False)
            )

    words = (f"recipe.select={select}", "dataset.val_fraction=0.1")
    whole = trainer_of(tmp_path, *words)
    on(whole, whole.plan.steps)
    first = trainer_of(tmp_path, *words)
    on(first, stop)
    torch.save(first.state_dict(), tmp_path / "last.pt")
    second = trainer_of(tmp_path, *words)
    torch.manual_seed(99)  # the global stream plays no part
    second.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    on(second, second.plan.steps - stop)
    assert torch.equal(flat(second), flat(whole))
    state, step = second.selection.selected()
    expected, at = whole.selection.selected()
    assert step == at
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


def test_a_step_is_that_of_plain_torch(tmp_path):
    """One full batch in eval-like layers: the mean over patients of their images' mean loss, in parts."""
    words = ("recipe.optimizer=sgd", "recipe.batch_size=null", "recipe.flips=none", "runtime.batch_size=6")
    trainer = trainer_of(tmp_path, *words, patients=True)
    trainer.network.backbone.norm, trainer.network.backbone.drop = nn.Identity(), nn.Identity()
    trainer.inner = torch.optim.SGD(trainer.network.parameters(), lr=0.01)
    network = trainer.network
    plain = [p.detach().clone().requires_grad_() for p in network.parameters()]
    inputs = trainer._inputs(torch.arange(20))
    logits = torch.func.functional_call(
        network, dict(zip(dict(network.named_parameters()), plain, strict=True)), (inputs,)
    )
    losses = nn.functional.cross_entropy(logits, trainer.labels, reduction="none", label_smoothing=0.1)
    mean = (losses[:3].mean() + losses[3:].sum()) / 18
    gradients = torch.autograd.grad(mean, plain)
    trainer.step()
    for now, before, gradient in zip(network.parameters(), plain, gradients, strict=True):
        torch.testing.assert_close(now, before - 0.01 * gradient, rtol=1e-4, atol=1e-6)


def test_flips_are_those_of_the_transforms(tmp_path):
    trainer = trainer_of(tmp_path, "recipe.flips=random")
    plain = trainer._inputs(torch.arange(20))
    seen = set()
    for row, view in enumerate(trainer._views(torch.arange(20))[0]):
        ways = [plain[row].flip(axes) if axes else plain[row] for axes in ([], [-1], [-2], [-1, -2])]
        seen |= {number for number, way in enumerate(ways) if torch.equal(way, view)}
    assert seen == {0, 1, 2, 3}


def test_all_flips_stand_side_by_side(tmp_path):
    trainer = trainer_of(tmp_path, "recipe.flips=all")
    plain = trainer._inputs(torch.arange(3))
    views, labels = trainer._views(torch.arange(3))
    expected = [flip(plain, variant)[row] for row in range(3) for variant in range(4)]
    assert torch.equal(views, torch.stack(expected))
    assert labels.tolist() == [int(trainer.labels[row]) for row in range(3) for _ in range(4)]


PRIVATE = ("recipe.optimizer=sgd", "recipe.batch_size=null", "recipe.lr=1", "recipe.flips=all")


def clipped_by_hand(trainer: NetworkTrainer, units: list[list[int]], c: float) -> list[torch.Tensor]:
    """One backward pass for each unit on the mean over its images and their flips."""
    total = [torch.zeros_like(p) for p in trainer.trained]
    for unit in units:
        views = [flip(trainer._inputs(torch.tensor(unit)), variant) for variant in range(4)]
        logits = trainer.network(torch.cat(views))
        labels = trainer.labels[unit].repeat(4)
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        gradients = torch.autograd.grad(loss, trainer.trained)
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        total = [t + g * min(1.0, c / float(norm)) for t, g in zip(total, gradients, strict=True)]
    return total


@pytest.mark.parametrize("memory", ["4", "1e-9"])  # all at once; one image at a time
@pytest.mark.parametrize("trainable", ["all", "bias"])
def test_a_private_step_is_the_clipped_sum_over_patients_and_noise(tmp_path, trainable, memory):
    words = (
        *PRIVATE,
        f"classifier.trainable={trainable}",
        "recipe.max_grad_norm=0.05",
        f"runtime.memory_limit={memory}",
    )
    trainer = trainer_of(tmp_path, *words, patients=True, epsilon="4")
    trainer.network.eval()
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    expected = clipped_by_hand(trainer, [[0, 1, 2], *([i] for i in range(3, 20))], 0.05)
    unclipped = clipped_by_hand(trainer, [[0, 1, 2], *([i] for i in range(3, 20))], 1e9)
    assert (
        torch.cat([g.flatten() for g in unclipped]) - torch.cat([g.flatten() for g in expected])
    ).norm() > 0.05
    total = trainer.private_sum(trainer.batches.next())
    for block, gradient in zip(total.blocks, expected, strict=True):
        torch.testing.assert_close((block.double() * total.step).float(), gradient, rtol=3e-4, atol=1e-5)
    start = [p.detach().clone() for p in trainer.trained]
    trainer.step()
    moved = torch.cat(
        [((s - p) * 20 - g).flatten() for s, p, g in zip(start, trainer.trained, expected, strict=True)]
    )
    assert trainer.plan.mechanism is not None
    sigma = trainer.plan.mechanism.noise_multiplier * 0.05
    assert abs(float(moved.detach().std()) / sigma - 1) < 4 / (2 * len(moved)) ** 0.5
    still = {name for name, value in trainer.network.state_dict().items() if torch.equal(value, before[name])}
    frozen = {"backbone.norm.running_mean", "backbone.norm.running_var", "backbone.norm.num_batches_tracked"}
    assert still == (
        frozen if trainable == "all" else frozen | {"backbone.conv.weight", "backbone.norm.weight"}
    )


@pytest.mark.parametrize("flips", ["all", "random"])
def test_private_resume_is_bit_identical(tmp_path, flips):
    words = ("recipe.optimizer=adamw", f"recipe.flips={flips}", "recipe.select=ema")
    whole, first, second = (trainer_of(tmp_path, *words, epsilon="4") for _ in range(3))
    for _ in range(whole.plan.steps):
        whole.step()
    for _ in range(2):
        first.step()
    torch.save(first.state_dict(), tmp_path / "last.pt")
    second.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    for _ in range(second.plan.steps - 2):
        second.step()
    assert torch.equal(flat(second), flat(whole))
    assert all(
        torch.equal(v, whole.selection.selected()[0][k]) for k, v in second.selection.selected()[0].items()
    )


def test_without_privacy_a_part_trains_with_the_statistics_that_the_backbone_came_with(tmp_path):
    trainer = trainer_of(tmp_path, "classifier.trainable=bias")
    before = trainer.network.backbone.norm.running_mean.clone()
    trainer.step()
    assert torch.equal(trainer.network.backbone.norm.running_mean, before)
