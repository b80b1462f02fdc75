"""Training every parameter: against plain torch, resume, and what must not be trained so."""

import numpy as np
import pytest
import torch
from torch import nn

from mammo_dp.files import Cache
from mammo_dp.privacy.planning import make_plan
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training.network import Network, NetworkTrainer
from tests.conftest import config_of

SIZE = 16


class Body(nn.Module):
    """A small body with layers that draw for themselves, and one with statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.conv(inputs)).relu().mean(dim=(2, 3)))


def trainer_of(tmp_path, *words: str, patients: bool = False, epsilon: str = "inf") -> NetworkTrainer:
    config = config_of("dataset=toy", f"classifier.input_size={SIZE}", "recipe.lr=0.01", "recipe.epochs=3",
                       "recipe.batch_size=8", f"privacy.epsilon={epsilon}", *words)  # fmt: skip
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(2, size=20))
    images = (rng.integers(0, 128, size=(20, SIZE, SIZE)) + 100 * labels.numpy()[:, None, None]).astype(
        np.uint8
    )
    units = Units([[0, 1, 2], *([i] for i in range(3, 20))]) if patients else Units.of_each(range(20))
    torch.manual_seed(0)
    return NetworkTrainer(
        Network(Body(), nn.Sequential(nn.Linear(4, 2)), normalize=config.recipe.normalize_features),
        images,
        units,
        labels,
        plan=make_plan(config, units=len(units), cache=Cache(tmp_path)),
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
    trainer.network.body.norm, trainer.network.body.drop = nn.Identity(), nn.Identity()
    trainer.optimizer = torch.optim.SGD(trainer.network.parameters(), lr=0.01)
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
    for row, view in enumerate(trainer._views(torch.arange(20))):
        ways = [plain[row].flip(axes) if axes else plain[row] for axes in ([], [-1], [-2], [-1, -2])]
        seen |= {number for number, way in enumerate(ways) if torch.equal(way, view)}
    assert seen == {0, 1, 2, 3}


def test_privacy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="without privacy"):
        trainer_of(
            tmp_path, "privacy.public_count=20", "privacy.accountant=rdp", "privacy.delta=0.01", epsilon="4"
        )
