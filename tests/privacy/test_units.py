import torch

from mammo_dp.privacy.sampling import PoissonBatches, seeded_generator
from mammo_dp.privacy.units import Units


def taken(units: Units, chosen: torch.Tensor) -> list[list[int]]:
    return [row for block in units.by_size(chosen) for row in block.tolist()]


def test_patients_by_number_of_images():
    units = Units.grouped([5, 6, 7, 8, 9], ["b", "a", "b", "c", "b"])
    assert len(units) == 3
    assert sorted(taken(units, torch.arange(3))) == [[5, 7, 9], [6], [8]]
    assert taken(units, torch.tensor([0])) == [[5, 7, 9]]
    assert taken(units, torch.empty(0, dtype=torch.int64)) == []


def test_a_unit_may_be_empty():
    assert taken(Units([[], [3]]), torch.arange(2)) == [[3]]


def test_poisson_takes_patients_all_or_none_and_at_the_stated_rate():
    owners = [str(i % 10) for i in range(35)]
    units = Units.grouped(range(35), owners)
    batches = PoissonBatches(len(units), 0.3, seeded_generator(0, "run", "batches"))
    joined = torch.zeros(2000, 10)
    for draw in range(2000):
        images = {image for row in taken(units, batches.next()) for image in row}
        for patient in range(10):
            mine = set(range(patient, 35, 10))
            assert images & mine in (set(), mine)
            joined[draw, patient] = float(bool(images & mine))
    assert (joined.mean(0) - 0.3).abs().max() < 4.5 * (0.21 / 2000) ** 0.5
    assert (torch.corrcoef(joined.T) - torch.eye(10)).abs().max() < 0.1
