"""A function over many items in other processes, so that neither a crash nor a leak of one reaches the rest."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_exit
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2  # items a process that are handed out at a time
FEWEST_EACH = 16  # items a process; below, starting it takes longer than it saves
# Of glibc: a process keeps the memory of one large image for the next instead of handing it back and asking again
# (34 instead of 56 ms an image of 4000x3000). Read at the start of a process, so they go through the environment.
KEEP_MEMORY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def workers_for(wanted: int | None, items: int) -> int:
    """Number of processes: `wanted`, or as many as there are cores, up to 8; fewer for few items."""
    if wanted is not None:
        return max(1, min(wanted, items))
    return max(1, min(usable_cores(), 8, items // FEWEST_EACH))


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[tuple[Item, Result | None]]:
    """Every item with function(item), in the order in which they finish; None where the process crashed on an item.

    A process that crashes (killed for memory, a decoder's fault) takes nothing with it: what was under way is tried
    again, one at a time, and only the item that crashes its process again is given up. One worker is this process.
    Exceptions of `function` are passed on. `function` and the items must be picklable.
    """
    if workers == 1:
        yield from ((item, function(item)) for item in items)
        return
    todo = deque(items)
    under_way: dict[Future[Result], Item] = {}
    pool = _pool(workers)
    try:
        while todo or under_way:
            try:
                while todo and len(under_way) < AHEAD * workers:
                    future = pool.submit(function, todo[0])
                    under_way[future] = todo.popleft()
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield under_way.pop(future), result
            except BrokenProcessPool:
                _stop(pool)
                if _alone(abs, 0) is None:
                    raise RuntimeError(
                        "no worker process can start (too little memory, or a script without its main guard); "
                        "use one worker"
                    ) from None
                while under_way:
                    item = under_way.popitem()[1]
                    yield item, _alone(function, item)
                pool = _pool(workers)
    finally:
        _stop(pool)


def _alone(function: Callable[[Item], Result], item: Item) -> Result | None:
    """function(item) in a separate process, or None if that process crashes."""
    pool = _pool(1)
    try:
        return pool.submit(function, item).result()
    except BrokenProcessPool:
        return None
    finally:
        _stop(pool)


def _pool(workers: int) -> ProcessPoolExecutor:
    for name in KEEP_MEMORY:
        os.environ.setdefault(name, str(2**29))
    # spawn: a fork would copy whatever this process has loaded, torch and its threads included
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the processes; what they are doing now is finished, what waits is dropped."""
    pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the parent, end when it ends, and use one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    import cv2

    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def end_with_parent() -> None:
    """From now on, end this process when the one that started it ends."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_exit([parent.sentinel])
        os._exit(1)
