#!/usr/bin/env python
"""Start-up time of --help and status against `import hydra`: medians of 7 alternating runs in one go.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import hydra": ["-c", "import hydra"],
    "--help": ["-m", "mammo_dp", "--help"],
    "status": ["-m", "mammo_dp"],
}


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(7):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    base = statistics.median(times["import hydra"])
    for name, values in times.items():
        print(
            f"{name:<13} {statistics.median(values):.2f} s   {statistics.median(values) / base:.2f} x import hydra"
        )


if __name__ == "__main__":
    main()
