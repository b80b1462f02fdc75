"""Which records take part in a step, and the random streams of a run."""

import hashlib
from dataclasses import dataclass

import torch
from opacus.utils.uniform_sampler import UniformWithReplacementSampler


def seeded_generator(seed: int, run: str, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for each run and each purpose ('batches', 'noise')."""
    digest = hashlib.sha256(f"{seed}:{run}:{stream}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass
class PoissonBatches:
    """Each of `records` joins a batch independently with probability `sample_rate`; a batch may be empty.

    Draws come from `generator` alone, so saving and restoring its state resumes the sequence exactly.
    """

    records: int
    sample_rate: float
    generator: torch.Generator

    def next(self) -> torch.Tensor:
        """(k,) positions of the records of the next batch."""
        sampler = UniformWithReplacementSampler(
            num_samples=self.records, sample_rate=self.sample_rate, generator=self.generator, steps=1
        )
        return torch.tensor(next(iter(sampler)), dtype=torch.int64)


@dataclass
class FullBatch:
    """Everything, every step."""

    records: int

    def next(self) -> torch.Tensor:
        return torch.arange(self.records)


@dataclass
class ShuffledBatches:
    """Ordinary minibatches without replacement, for training without privacy only."""

    records: int
    batch_size: int
    generator: torch.Generator
    left: torch.Tensor  # what is left of the present epoch's order

    def next(self) -> torch.Tensor:
        if not len(self.left):
            self.left = torch.randperm(self.records, generator=self.generator)
        batch, self.left = self.left[: self.batch_size], self.left[self.batch_size :]
        return batch
