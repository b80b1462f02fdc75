import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mammo_dp.workers import each, workers_for


def double(item: int) -> int:
    return 2 * item


def dies_over_three(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def raises_over_three(item: int) -> int:
    if item == 3:
        raise KeyError("a bug")
    return item


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_once(workers):
    assert sorted(each(double, range(30), workers=workers)) == [(i, 2 * i) for i in range(30)]
    assert list(each(double, [], workers=workers)) == []


def test_a_crash_costs_one_item():
    found = dict(each(dies_over_three, range(12), workers=2))
    assert found.pop(3) is None
    assert found == {i: 2 * i for i in range(12) if i != 3}


@pytest.mark.parametrize("workers", [1, 2])
def test_bugs_are_passed_on(workers):
    with pytest.raises(KeyError, match="a bug"):
        list(each(raises_over_three, range(9), workers=workers))


def test_number_of_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    assert workers_for(None, 1000) == 4
    assert workers_for(None, 40) == 2
    assert workers_for(None, 3) == 1
    assert workers_for(3, 1000) == 3
    assert workers_for(3, 2) == 2
    assert workers_for(3, 0) == 1


def test_workers_end_with_a_killed_parent():
    """kill -9 of the main process must leave nobody behind who could still write or hold memory."""
    code = (
        "import os, time; from mammo_dp.workers import each; from tests.test_workers import tell\n"
        "if __name__ == '__main__':\n    [print(pid, flush=True) for _, pid in each(tell, range(50), workers=2)]"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # is alive
        parent.kill()
    for _ in range(100):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("a worker outlived its parent")


def tell(item: int) -> int:
    time.sleep(0.1)
    return os.getpid()
