"""Which units take part in a step, and the random streams of a run."""

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from opacus.utils.uniform_sampler import UniformWithReplacementSampler

from mammo_dp.privacy.events import Mechanism
from mammo_dp.privacy.noise import NoiseSource, SecureNoise, SeededNoise

WORDS = 624  # of the Mersenne Twister behind torch's generator on a CPU
HEADER, STATE_BYTES = 24, 5056  # layout of its saved state: where the words begin, and its length


def seeded_generator(seed: int, run: str, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A reproducible generator of its own for each run and each purpose ('batches', 'noise')."""
    material = hashlib.shake_256(f"{seed}:{run}:{stream}".encode()).digest(4 * WORDS)
    return _generator(material, torch.device(device))


def secure_generator(device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by the operating system: the whole state on a CPU, 63 bits elsewhere. Not to be saved."""
    return _generator(os.urandom(4 * WORDS), torch.device(device))


def _generator(material: bytes, device: torch.device) -> torch.Generator:
    """A generator from 4 * WORDS bytes.

    `manual_seed` of a CPU generator keeps 32 bits of its seed: whoever holds a candidate data set could try them all
    and remove the noise. So the words of the state are filled instead. Other devices take 63 bits.
    """
    generator = torch.Generator(device).manual_seed(int.from_bytes(material[:8], "big") >> 1)
    if device.type != "cpu":
        return generator
    state = generator.get_state()
    if len(state) != STATE_BYTES:
        raise RuntimeError(f"torch {torch.__version__} keeps its generator's state in another form")
    words = list(struct.unpack(f"<{WORDS}I", material))
    words[0] |= 1 << 31  # a state of zeros alone would stay zero
    content = torch.tensor(list(struct.pack(f"<{WORDS}Q", *words)), dtype=torch.uint8)
    state[HEADER : HEADER + 8 * WORDS] = content
    return generator.set_state(state)


@dataclass(frozen=True)
class Randomness:
    """Where noise and batches come from.

    seeded: streams derived from `seed` and `run`, which identifies data and settings: two runs that shared their noise
    at different scales, or on two versions of the data, could be subtracted until only private data is left.
    secure: noise and batches from the operating system's cryptographic generator; nothing of it is saved, and a resumed
    run continues with fresh draws. Streams that protect no unit (flips, latents) are then seeded from there too.
    """

    secure: bool
    seed: int
    run: str

    def states(self, streams: Mapping[str, torch.Generator]) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of random streams: nothing if they are secure."""
        return {} if self.secure else {name: stream.get_state() for name, stream in streams.items()}

    def restore(self, streams: Mapping[str, torch.Generator], state: Mapping[str, Any]) -> None:
        """Resume from what `states` kept. Secure streams continue with fresh draws."""
        if not self.secure:
            for name, stream in streams.items():
                stream.set_state(state[name])

    def noise(self, generator: torch.Generator, *, coordinates: int) -> NoiseSource:
        """Of a step that releases so many coordinates; `generator` is that of the stream "noise"."""
        return SecureNoise(coordinates) if self.secure else SeededNoise(generator)

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        if self.secure:
            return secure_generator(device)
        return seeded_generator(self.seed, self.run, stream, device)


@dataclass
class PoissonBatches:
    """Each of `units` joins a batch independently with probability `sample_rate`; a batch may be empty.

    Draws come from `generator` alone, so saving and restoring its state resumes the sequence exactly.
    """

    units: int
    sample_rate: float
    generator: torch.Generator

    def next(self) -> torch.Tensor:
        """(k,) numbers of the units of the next batch."""
        sampler = UniformWithReplacementSampler(
            num_samples=self.units, sample_rate=self.sample_rate, generator=self.generator, steps=1
        )
        return torch.tensor(next(iter(sampler)), dtype=torch.int64)


@dataclass
class SecurePoissonBatches:
    """The same, drawn by the operating system: 64 bits a unit, compared with the sampling rate rounded down."""

    units: int
    sample_rate: float

    def next(self) -> torch.Tensor:
        drawn = np.frombuffer(os.urandom(8 * self.units), dtype=np.uint64)
        return torch.from_numpy(
            np.flatnonzero(drawn < np.uint64(min(int(self.sample_rate * 2**64), 2**64 - 1)))
        )


@dataclass
class FullBatch:
    """Everything, every step."""

    units: int

    def next(self) -> torch.Tensor:
        return torch.arange(self.units)


@dataclass
class ShuffledBatches:
    """Ordinary minibatches without replacement, of what is not private."""

    units: int
    batch_size: int
    generator: torch.Generator
    left: torch.Tensor  # what is left of the present epoch's order

    def next(self) -> torch.Tensor:
        if not len(self.left):
            self.left = torch.randperm(self.units, generator=self.generator)
        batch, self.left = self.left[: self.batch_size], self.left[self.batch_size :]
        return batch


NONE_LEFT = torch.empty(0, dtype=torch.int64)
Batches = PoissonBatches | SecurePoissonBatches | FullBatch | ShuffledBatches


def batches_of(
    units: int,
    mechanism: Mechanism | None,
    batch_size: int | None,
    generator: torch.Generator,
    *,
    secure: bool = False,
) -> Batches:
    """What a run's steps see: under privacy a Poisson sample or everything, else ordinary minibatches."""
    if mechanism is not None and not mechanism.is_full_batch:
        rate = mechanism.sample_rate
        return SecurePoissonBatches(units, rate) if secure else PoissonBatches(units, rate, generator)
    if mechanism is not None or batch_size is None:
        return FullBatch(units)
    return ShuffledBatches(units, batch_size, generator, NONE_LEFT)
