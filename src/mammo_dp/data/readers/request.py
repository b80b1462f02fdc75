"""What a reader is asked for."""

from dataclasses import dataclass
from pathlib import Path

from mammo_dp.config.schema import Abnormality
from mammo_dp.files import Cache


@dataclass(frozen=True)
class Request:
    """The raw data of one source. Only the reader of custom tables looks at `table` and `pseudonyms`."""

    folder: Path
    abnormality: Abnormality
    cache: Cache  # of what is expensive to find out, such as an index of the tree
    table: Path | None = None
    pseudonyms: Path | None = None  # file of the patients' pseudonyms
