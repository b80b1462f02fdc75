"""Individual accounts against independent computations, and never above the run's own."""

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant

from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.gaussian import gaussian_epsilon, gaussian_mu
from mammo_dp.privacy.individual import LEVELS, Individual
from tests.audit.faults import PATIENTS, trainer_of

DELTA = 1e-4


def by_hand(trainer) -> np.ndarray:
    """mu of each patient, from clipped gradients by plain float64 autograd at the weights before each step."""
    total = np.zeros(PATIENTS)
    table = trainer.source.table.double()
    weights = torch.zeros(2, table.shape[2]), torch.zeros(2)
    head = torch.nn.Linear(table.shape[2], 2).double()
    for _ in range(trainer.plan.steps):
        weights = [p.detach().double().clone() for p in trainer.trained]
        head.weight.data, head.bias.data = weights
        for number, positions in enumerate(trainer.units.members()):
            x = table[positions].flatten(0, 1)
            y = trainer.labels[positions].repeat_interleave(4)
            loss = torch.nn.functional.cross_entropy(head(x), y)
            norm = float(
                torch.stack([g.norm() for g in torch.autograd.grad(loss, list(head.parameters()))]).norm()
            )
            total[number] += min(1.0, norm / trainer.recipe.max_grad_norm) ** 2
        trainer.step()
    return np.sqrt(total) / trainer.plan.mechanism.noise_multiplier


def test_full_batches_are_exact():
    mechanism = Mechanism(1.0, 6.0, 12)
    trainer = trainer_of(mechanism)
    trainer.recipe = trainer.recipe.model_copy(update={"max_grad_norm": 1.83})
    expected = by_hand(trainer)
    found = trainer.individual.mu(delta=DELTA, most=mechanism.mu)
    assert found == pytest.approx(expected, rel=3e-4)
    assert found.max() <= mechanism.mu
    assert found.min() < 0.97 * mechanism.mu  # some are not clipped: they get less


@pytest.mark.parametrize("adjacency", [1.0, 2.0])
def test_a_patient_who_is_clipped_at_every_step_equals_the_run(adjacency):
    mechanism = Mechanism(1.0, 8.0, 20, adjacency)
    trainer = trainer_of(mechanism)
    trainer.recipe = trainer.recipe.model_copy(update={"max_grad_norm": 0.01})
    for _ in range(20):
        trainer.step()
    assert (trainer.individual.mu(delta=DELTA, most=mechanism.mu) == mechanism.mu).all()


def test_poisson_sampling_is_bounded_by_steps_that_count_their_own_length():
    """Against dp-accounting: draws with their length, rounded up, every other step with C."""
    mechanism = Mechanism(0.2, 2.0, 50)
    account = Individual.of(3, mechanism)
    for step in range(50):
        account.add(
            torch.tensor([0, 1]), torch.tensor([0.25, 1.0 if step % 5 else 0.01], dtype=torch.float64)
        )
    run = 5.0
    found = account.mu(delta=DELTA, most=gaussian_mu(run, delta=DELTA))

    def epsilon(parts: dict[float, int]) -> float:
        accountant = RdpAccountant()
        for length, steps in parts.items():
            event = PoissonSampledDpEvent(0.2, GaussianDpEvent(2.0 / length))
            accountant.compose(SelfComposedDpEvent(event, steps))
        return accountant.get_epsilon(DELTA)

    half = (LEVELS // 2 + 1) / LEVELS  # the margin of clipping lifts .5 to the next level
    tenth = -(-LEVELS // 10) / LEVELS
    for number, parts in enumerate(({half: 50}, {1.0: 40, tenth: 10}, {1.0: 50})):
        expected = min(gaussian_mu(epsilon(parts), delta=DELTA), gaussian_mu(run, delta=DELTA))
        assert found[number] == pytest.approx(expected, rel=0.03)
    assert found[0] < found[1] <= found[2]


def test_poisson_runs_stay_below_their_own_claim():
    mechanism = Mechanism(0.25, 1.5, 40)
    trainer = trainer_of(mechanism)
    for _ in range(40):
        trainer.step()
    most = gaussian_mu(6.0, delta=DELTA)
    found = trainer.individual.mu(delta=DELTA, most=most)
    assert len(found) == PATIENTS
    assert found.max() <= most
    drawn = trainer.individual.state.sum(dim=1)
    assert float(drawn.mean()) == pytest.approx(10, rel=0.2)


def test_accounts_survive_a_checkpoint(tmp_path):
    mechanism = Mechanism(1.0, 6.0, 8)
    whole, first, second = (trainer_of(mechanism) for _ in range(3))
    for _ in range(8):
        whole.step()
    for _ in range(3):
        first.step()
    torch.save(first.state_dict(), tmp_path / "last.pt")
    second.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    for _ in range(5):
        second.step()
    assert torch.equal(second.individual.state, whole.individual.state)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 6.0, 60.0])
def test_mu_and_epsilon_are_inverse(epsilon):
    assert gaussian_epsilon(gaussian_mu(epsilon, delta=DELTA), delta=DELTA) == pytest.approx(
        epsilon, rel=1e-6
    )


def test_what_replaces_a_short_unit_may_be_long():
    """Replacement by a vector of length C in every step: a null unit still has half of the run's mu."""
    mechanism = Mechanism(1.0, 8.0, 25, 2.0)
    account = Individual.of(2, mechanism)
    for _ in range(25):
        account.add(torch.tensor([0, 1]), torch.tensor([0.0, 1.0], dtype=torch.float64))
    found = account.mu(delta=DELTA, most=mechanism.mu)
    assert found == pytest.approx([mechanism.mu / 2, mechanism.mu])
