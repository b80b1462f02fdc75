"""The tests are tested: each fault that would void the guarantee makes one of them fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations.faults import FAULTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_every_fault_is_caught():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.mutations"], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("\n| ") == len(FAULTS) >= 10
