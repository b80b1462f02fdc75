"""Random pseudonyms for patients, kept in a file of the data's owner and nowhere else."""

import csv
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from mammo_dp.data.tables import FAULT, read_table
from mammo_dp.errors import UserError

COLUMNS = ("patient_id", "pseudonym")
PSEUDONYM = r"p_[0-9a-f]{12}"
TITLE = "the file of pseudonyms (dataset.pseudonyms)"


@contextmanager
def pseudonyms(path: Path) -> Iterator[Callable[[str], str]]:
    """A function from a patient's id to the pseudonym; new ones are drawn and kept in the file at the end.

    The file is readable by its owner alone (mode 0600) and appears whole or not at all; what it holds is never
    changed. Raises UserError if it cannot be read or written.
    """
    path = path.resolve()  # of a link, the file that it leads to is kept, and locked
    with _lock(path):
        known = _load(path)
        drawn: dict[str, str] = {}

        def pseudonym(patient: str) -> str:
            if patient not in known and patient not in drawn:
                drawn[patient] = f"p_{secrets.token_hex(6)}"
            return known.get(patient) or drawn[patient]

        yield pseudonym
        if drawn:
            _save(path, known | drawn)


def check_writable(path: Path) -> None:
    """Raise UserError if the file could not be written."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise UserError(_remedy("is not a file"))
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.R_OK)):
        raise UserError(_remedy("cannot be written"))


def _remedy(fault: str) -> str:
    return f"{TITLE} {fault}; set dataset.pseudonyms=FILE to a place of yours, outside outputs/, that stays private"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Two runs that draw pseudonyms at once must not draw two for one patient."""
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), mode=0o600):
            yield
    except OSError as error:
        raise UserError(_remedy(f"cannot be written ({error.strerror})")) from None


def _load(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    damaged = UserError(
        f"{TITLE} is damaged: each row needs a patient_id and a pseudonym (p_ and 12 hex digits), each once; correct "
        "it, or take it away to draw all anew"
    )
    try:
        rows = [row for _, row in read_table(path, title=TITLE, required=COLUMNS)]
    except UserError:
        raise damaged from None
    known = {row["patient_id"]: row["pseudonym"] for row in rows}
    sound = all(
        not row[FAULT] and row["patient_id"] and re.fullmatch(PSEUDONYM, row["pseudonym"]) for row in rows
    )
    if not sound or not len(rows) == len(known) == len(set(known.values())):
        raise damaged
    try:
        path.chmod(0o600)
    except OSError:
        raise UserError(_remedy("belongs to somebody else")) from None
    return known


def _save(path: Path, mapping: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", newline="", encoding="utf-8"
    ) as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, *mapping.items()])
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
