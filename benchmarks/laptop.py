"""Eight equal runs one after the other, and two at a time by launcher=laptop; the start of processes included.

    python benchmarks/laptop.py [--epochs 18000]

Prints the three wall times and the ratio that matters: two at a time against one after the other, each run with one
thread; beside it one after the other with two threads. The metrics of the first two must be the same files.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOY = (
    "dataset=toy",
    "dataset.toy.train_patients=40",
    "dataset.toy.test_patients=10",
    "dataset.toy.external_patients=10",
)


def command(root: Path, outputs: str, *words: str) -> list[str]:
    start = [sys.executable, "-m", "mammo_dp"]
    return [*start, *TOY, f"dataset.root={root}/toy", f"outputs={root}/{outputs}", *words]


def sweep(root: Path, outputs: str, epochs: int, *words: str) -> float:
    """Seconds that the eight runs take, from features that are there."""
    shutil.copytree(root / "built", root / outputs)
    started = time.monotonic()
    subprocess.run(
        command(root, outputs, "-m", "stage=train_classifier", "privacy.epsilon=inf", "seed=1,2,3,4,5,6,7,8",
                "recipe.select=last", f"recipe.epochs={epochs}", *words),
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - started


def scores(root: Path, outputs: str) -> dict[str, bytes]:
    found = (root / outputs).glob("train_classifier/*/metrics.json")
    return {path.parent.name: path.read_bytes() for path in found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--epochs", type=int, default=18000, help="of each run; a run should take 20 s or more"
    )
    epochs = parser.parse_args().epochs
    root = Path(tempfile.mkdtemp(prefix="mammo_dp-laptop-"))
    try:
        subprocess.run(
            command(root, "built", "stage=extract_features", "build_inputs=true"),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        one = sweep(root, "one", epochs, "runtime.threads=1")
        two = sweep(root, "two", epochs, "runtime.threads=1", "launcher=laptop", "launcher.jobs=2")
        threads = sweep(root, "threads", epochs, "runtime.threads=2")
        print(f"one after the other, 1 thread: {one:.0f} s ({one / 8:.1f} s a run)")
        print(f"two at a time, 1 thread each: {two:.0f} s, {two / one:.2f} of it")
        print(f"one after the other, 2 threads: {threads:.0f} s, {threads / one:.2f} of it")
        print("the same metrics" if scores(root, "one") == scores(root, "two") else "OTHER METRICS")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
