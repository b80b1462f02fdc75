"""Tables of text (CSV) as people and programs really write them."""

import codecs
import csv
import difflib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_dp.errors import UserError

Row = dict[str, str]
FAULT = ""  # the column that says what is wrong with the form of a row, empty if nothing is
csv.field_size_limit(2**24)  # an outline of a large lesion is one value


def read_table(
    path: Path,
    *,
    title: str,
    required: Sequence[str],
    optional: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> list[tuple[int, Row]]:
    """The rows of a table with their numbers as a spreadsheet shows them: empty rows count, the first line is 1.

    Names of columns are compared in lower case, blanks as `_`, and renamed by `aliases`; values are stripped. The
    separator (comma, semicolon or tab) is the one that the header uses most. UTF-8, UTF-16 with its mark, else
    Windows-1252. Each row has the `required` and `optional` columns, those of the table, and FAULT. `title` stands for
    the file in messages. Raises UserError if it is no such table, lacks a `required` column, or a value swallows rows.
    """
    text = _decoded(path, title)
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    records = [
        (n, record) for n, record in enumerate(_records(text, delimiter, title), start=1) if any(record)
    ]
    if len(records) < 2:
        raise UserError(f"{title} has no rows below its header")
    columns = [_column(name, aliases or {}) for name in records[0][1]]
    _check(columns, required, title)
    known = (*required, *optional)
    rows = []
    for number, record in records[1:]:
        row = dict.fromkeys(known, "") | dict(zip(columns, record, strict=False))
        row[FAULT] = "more values than columns" if any(record[len(columns) :]) else ""
        for name, value in row.items():
            swallowed = name in known or value.count(delimiter) >= (len(columns) - 1) / 2
            if (
                "\n" in value and swallowed
            ):  # then rows are lost in it, and their values may stand under this one
                raise UserError(
                    f"row {number} of {title} holds a line break inside a value: a quotation mark is missing or too "
                    "many there; correct it"
                )
        rows.append((number, row))
    return rows


def _records(text: str, delimiter: str, title: str) -> list[list[str]]:
    """Stripped values, line breaks inside quotation marks kept."""

    def parse(*, strict: bool) -> list[list[str]]:
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=strict
        )
        try:
            return [[value.strip() for value in record] for record in reader]
        except csv.Error as error:
            if strict and "unexpected end" not in str(error):
                return parse(strict=False)  # blanks behind a quotation mark, which mean no harm
            where = f"at line {reader.line_num} ({error}); correct the quotation marks there"
            raise UserError(f"{title} cannot be parsed {where}") from None

    return parse(strict=True)


def _decoded(path: Path, title: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{title} cannot be read ({error.strerror}); check that it exists and may be read"
        ) from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise UserError(f"{title} is not a text file; save it as CSV (UTF-8)")
    for encoding in ("utf-8-sig", "cp1252"):  # the second is what spreadsheets on Windows write
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _column(name: str, aliases: Mapping[str, str]) -> str:
    plain = "_".join(name.lower().split())
    return aliases.get(plain, plain)


def _check(columns: list[str], required: Sequence[str], title: str) -> None:
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise UserError(f"{title} has two columns named {twice[0]}; rename one")
    missing = [name for name in required if name not in columns]
    if missing:
        near = difflib.get_close_matches(missing[0], columns, n=1)
        hint = f" Is {near[0]} meant?" if near else ""
        raise UserError(
            f"{title} has no column {' and no column '.join(missing)}; it needs {', '.join(required)}.{hint}"
        )
