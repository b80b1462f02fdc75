"""What the guarantee protects: a unit and the records that belong to it."""

from collections.abc import Iterable, Iterator, Sequence

import torch


class Units:
    """A partition of records into units of privacy. A unit may hold no record: its gradient is zero.

    An image is a unit of one record. A patient is a unit of all the patient's images.
    """

    def __init__(self, members: Sequence[Sequence[int]]) -> None:
        """`members`: for each unit, the positions of its records."""
        self.sizes = torch.tensor([len(unit) for unit in members], dtype=torch.int64)
        widest = int(self.sizes.max()) if len(members) else 0
        self._positions = torch.zeros(len(members), widest, dtype=torch.int64)
        for number, unit in enumerate(members):
            self._positions[number, : len(unit)] = torch.as_tensor(unit, dtype=torch.int64)

    @classmethod
    def of_each(cls, positions: Iterable[int]) -> "Units":
        """Every record a unit of its own."""
        return cls([[int(position)] for position in positions])

    @classmethod
    def grouped(cls, positions: Iterable[int], keys: Iterable[str]) -> "Units":
        """Records with the same key form a unit; units in order of their first record."""
        members: dict[str, list[int]] = {}
        for position, key in zip(positions, keys, strict=True):
            members.setdefault(key, []).append(int(position))
        return cls(list(members.values()))

    def members(self) -> list[list[int]]:
        """The positions of each unit's records."""
        return [self._positions[i, :size].tolist() for i, size in enumerate(self.sizes.tolist())]

    def __len__(self) -> int:
        return len(self.sizes)

    def by_size(self, chosen: torch.Tensor) -> Iterator[torch.Tensor]:
        """The chosen units as (units, k) positions, one tensor for each number k > 0 of records."""
        for _, positions in self.numbered(chosen):
            yield positions

    def numbered(self, chosen: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The same with the (units,) numbers of the units."""
        sizes = self.sizes[chosen]
        for size in sizes.unique().tolist():
            if size:
                numbers = chosen[sizes == size]
                yield numbers, self._positions[numbers, :size]
