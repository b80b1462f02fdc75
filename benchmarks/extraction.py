#!/usr/bin/env python
"""Images a second of `stage=extract_patches` against a plain loop, in one run, and the memory of its processes.

    python benchmarks/extraction.py        # two to three minutes on 2 cores; needs 2.2 GB of disk

60 made-up mammograms of 4000x3000 px, 16 bit, with an 8-bit mask each, in the CBIS-DDSM form. The plain loop is what
one writes by hand: pydicom, numpy and OpenCV at their default numbers of threads, one image after the other, one lesion
each. Both make the same patches, which is checked. They take turns, and the numbers to compare are the ratios: the
machine may be busy. Files are read once before, so that both find them in the system's cache.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pydicom

from mammo_dp.data import toy

IMAGES, HEIGHT, WIDTH = 60, 4000, 3000
MARGIN, MIN_SIDE, SIZE = 60, 128, 128  # the paper's
ROUNDS = 3


def make(root: Path) -> None:
    """Mammograms of random texture with one elliptic mass each, two views a patient."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(IMAGES):
        view, patient = ("CC", "MLO")[number % 2], f"P_{number // 2:05d}"
        case = f"Mass-Training_{patient}_LEFT_{view}"
        coarse = rng.integers(0, 50_000, (HEIGHT // 16, WIDTH // 16), dtype=np.uint16)
        image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) // 2
        image += rng.integers(0, 2_000, image.shape, dtype=np.uint16)
        centre = (int(rng.integers(200, WIDTH - 200)), int(rng.integers(200, HEIGHT - 200)))
        axes = (int(rng.integers(40, 250)), int(rng.integers(40, 250)))
        mask = cv2.ellipse(np.zeros(image.shape, np.uint8), centre, axes, 0, 0, 360, 255, -1)
        image[mask > 0] += 15_000
        tree = root / "CBIS-DDSM"
        image_path = toy.write_series(tree, case, "full mammogram images", [image])
        roi_path = toy.write_series(tree, f"{case}_1", "ROI mask images", [image[:300, :300], mask])
        values = (
            patient, 2, "LEFT", view, 1, "mass", "ROUND", "CIRCUMSCRIBED", 3, "BENIGN", 4,
            f"{image_path}/000000.dcm", f"{roi_path}/000000.dcm", f"{roi_path}/000001.dcm\n",
        )  # fmt: skip
        rows.append(dict(zip(toy.CBIS_COLUMNS, values, strict=True)))
        print(f"\r{number + 1} of {IMAGES} mammograms written", end="", flush=True)
    print()
    for name, part in (("train", rows[:-10]), ("test", rows[-10:])):
        (root / f"mass_case_description_{name}_set.csv").write_bytes(toy.cbis_table(part))


def pairs_of(root: Path, index: pd.DataFrame) -> list[tuple[Path, Path]]:
    """Mammogram and mask of each patch, in the order of the index."""
    place = [f"{row.patient}_{row.laterality.replace('L', 'LEFT')}_{row.view}" for row in index.itertuples()]
    tree = root / "CBIS-DDSM"
    return [
        (
            next((tree / f"Mass-Training_{name}").glob("*/*/1-1.dcm")),
            next((tree / f"Mass-Training_{name}_1").glob("*/*/1-2.dcm")),
        )
        for name in place
    ]


def plain_loop(pairs: list[tuple[Path, Path]], out: Path) -> None:
    for number, (image_path, mask_path) in enumerate(pairs):
        array = pydicom.dcmread(image_path).pixel_array
        low, high = int(array.min()), int(array.max())
        image = np.rint((array.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)
        mask = pydicom.dcmread(mask_path).pixel_array
        contours, _ = cv2.findContours(
            (mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        x, y, width, height = cv2.boundingRect(max(contours, key=cv2.contourArea))
        side = max(width, height, MIN_SIDE) + 2 * MARGIN
        left = min(max((2 * x + width - side) // 2, 0), WIDTH - side)
        top = min(max((2 * y + height - side) // 2, 0), HEIGHT - side)
        patch = cv2.resize(
            image[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA
        )
        cv2.imwrite(str(out / f"{number:05d}.png"), patch)


class Peak(threading.Thread):
    """Largest memory of a process and all below it, in bytes: pages shared between them count once (PSS)."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.stopped = process, 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            total = 0
            try:
                for member in [self.process, *self.process.children(recursive=True)]:
                    total += member.memory_full_info().pss
            except psutil.Error:
                continue  # one of them has just ended
            self.peak = max(self.peak, total)


def stage(root: Path, outputs: Path, workers: int) -> tuple[float, int]:
    """Seconds from the first to the last patch of the stage, start of the workers included, and its peak memory."""
    command = [
        sys.executable, "-m", "mammo_dp", "stage=extract_patches", "dataset=cbis_ddsm", "dataset.split=official",
        f"dataset.root={root}", f"outputs={outputs}", f"runtime.workers={workers}", "force=true",
    ]  # fmt: skip
    code = (
        "import sys, time; import mammo_dp.stages.extract_patches as stage; cut = stage._cut\n"
        "def timed(*a):\n"
        "    start = time.perf_counter(); found = cut(*a)\n"
        "    print('SECONDS', time.perf_counter() - start); return found\n"
        "stage._cut = timed\n"
        "from mammo_dp.cli import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *command[3:]], stdout=subprocess.PIPE, text=True
    ) as process:
        peak = Peak(psutil.Process(process.pid))
        peak.start()
        said = process.communicate()[0]
        peak.stopped.set()
    if process.returncode:
        sys.exit(f"the stage failed: {said}")
    return float(said.split("SECONDS")[1].split()[0]), peak.peak


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--folder", type=Path, help="keep the mammograms here and use them again")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root = given.folder or folder / "raw"
        if not root.is_dir():
            make(root)
        run(root, folder, given.workers)


def run(root: Path, folder: Path, workers: int) -> None:
    outputs = folder / "outputs"
    _, peak = stage(root, outputs, workers)  # warms the cache of files
    (artifact,) = (outputs / "extract_patches").iterdir()
    index = pd.read_csv(artifact / "index.csv")
    pairs = pairs_of(root, index)
    loop, ours = [], []
    for number in range(ROUNDS):
        out = folder / f"plain{number}"
        out.mkdir()
        start = time.perf_counter()
        plain_loop(pairs, out)
        loop.append(time.perf_counter() - start)
        seconds, memory = stage(root, outputs, workers)
        ours.append(seconds)
        peak = max(peak, memory)
        print(f"round {number + 1}: plain loop {loop[-1]:.2f} s, stage {ours[-1]:.2f} s")
    same = sum(
        (artifact / name).read_bytes() == (folder / f"plain0/{number:05d}.png").read_bytes()
        for number, name in enumerate(index["patch"])
    )
    slow, fast = statistics.median(loop), statistics.median(ours)
    print(
        f"{len(index)} images of {HEIGHT}x{WIDTH}, {workers} workers, {os.cpu_count()} cores; {same} patches the same"
    )
    print(
        f"plain loop {len(index) / slow:.1f} images a second, stage {len(index) / fast:.1f}: {slow / fast:.2f} times"
    )
    print(f"peak memory of the stage and its workers: {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
