"""Readers: each knows one form of raw data and yields Lesion or Skipped records, nothing about patches."""

from collections.abc import Callable, Iterator

from mammo_dp.data.readers import bcdr, cbis_ddsm, custom, release
from mammo_dp.data.readers.request import Request
from mammo_dp.data.records import Lesion, Skipped

READERS: dict[str, Callable[[Request], Iterator[Lesion | Skipped]]] = {
    "cbis_ddsm": cbis_ddsm.read,
    "bcdr": bcdr.read,
    "release": release.read,
    "custom": custom.read,
}
