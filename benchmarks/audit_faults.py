#!/usr/bin/env python
"""How often an audit contradicts a sound trainer, and whether it finds each fault: a small private study, many seeds.

python benchmarks/audit_faults.py [AUDITS]        # 200 by default: about six minutes on 2 cores
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tests.audit import faults
from tests.audit.test_faults import audited

from mammo_dp.files import Cache
from mammo_dp.privacy.accounting import calibrate
from mammo_dp.privacy.events import Mechanism

RATES = {"full batches, epsilon 6": 1.0, "Poisson, epsilon 6": 0.25}


@cache
def sound(name: str) -> Mechanism:
    given = {
        "sample_rate": RATES[name],
        "steps": 100,
        "accountant": "rdp",
        "cache": Cache(Path(tempfile.mkdtemp())),
    }
    return calibrate(target=6.0, delta=1e-4, **given)


def accused(name: str, seed: int) -> tuple[bool, list[str]]:
    torch.set_num_threads(1)
    return audited(sound(name), seed=seed)


def found(name: str) -> tuple[bool, list[str]]:
    torch.set_num_threads(1)
    poisson = name in faults.POISSON
    mechanism = sound("Poisson, epsilon 6" if poisson else "full batches, epsilon 6")
    return audited(mechanism, (faults.POISSON if poisson else faults.FULL)[name])


def main() -> None:
    audits = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with ProcessPoolExecutor(2) as pool:
        for name in RATES:
            each = audits // len(RATES)
            results = list(pool.map(partial(accused, name), range(1000, 1000 + each)))
            wrong = [checks for contradicted, checks in results if contradicted]
            print(f"sound, {name}: {len(wrong)} of {each} contradicted {wrong or ''}", flush=True)
        names = [*faults.FULL, *faults.POISSON]
        for name, (contradicted, checks) in zip(names, pool.map(found, names), strict=True):
            print(
                f"{name}: {'CONTRADICTED' if contradicted else 'not found'} by {', '.join(checks)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
