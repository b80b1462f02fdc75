"""Progress of long work, shown on a terminal and silent elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_silent = False


def silence() -> None:
    """Show no bars from now on: another process may be writing to the same terminal."""
    global _silent
    _silent = True


def track(
    items: Iterable[T],
    description: str,
    *,
    total: int | None = None,
    done: int = 0,
    note: Callable[[], str] = str,
) -> Iterator[T]:
    """Yield `items` while a bar shows how many of `total` are done and the time left.

    `done` of them were finished earlier (a resumed run) and only move the bar. `note` is asked for what else to show.
    """
    if _silent or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    if total is None:
        total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")
        for item in items:
            yield item
            bar.update(task, advance=1, note=note())
