"""Train and export again and again under replayed noise, with one patient removed, null or changed at a time.

    python -m tests.privacy.replay PATCHES FEATURES        # two artifact folders of dataset=release

The noisy sums are the only thing that private training releases. With the sums of a first run replayed, whatever else
differs between two bundles has found another way out. Gradients are still computed in every run, from the changed data.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from mammo_dp.config import Config
from mammo_dp.engine.artifacts import Artifact, Output
from mammo_dp.engine.progress import track
from mammo_dp.files import Cache, fingerprint
from mammo_dp.metrics import performance
from mammo_dp.metrics.bootstrap import patient_draws
from mammo_dp.privacy.mechanism import GridSum
from mammo_dp.privacy.statement import statement
from mammo_dp.stages import node_of
from mammo_dp.stages.export import work as export
from mammo_dp.stages.fit_preparation import work as fit_preparation
from mammo_dp.stages.train_classifier import work as train_classifier

Plant = Callable[["Study", Artifact], Any]


@dataclass(frozen=True)
class Study:
    """index: rows of a patches artifact; features: (n, 4, d) in the same order."""

    index: pd.DataFrame
    features: torch.Tensor

    @property
    def patients(self) -> list[str]:
        return list(dict.fromkeys(self.index["patient"][self.index["split"] == "train"]))

    def without(self, patient: str) -> "Study":
        kept = self._mine(patient) == 0
        return Study(self.index[kept].reset_index(drop=True), self.features[torch.tensor(kept)])

    def null(self, patient: str) -> "Study":
        """Black pixels, benign."""
        return self._changed(patient, torch.zeros_like(self.features), np.zeros(len(self.index), dtype=int))

    def other(self, patient: str, seed: int) -> "Study":
        """Other pixels and the other label."""
        noise = torch.randn(self.features.shape, generator=torch.Generator().manual_seed(seed))
        return self._changed(patient, noise, 1 - self.index["malignant"].to_numpy())

    def _mine(self, patient: str) -> np.ndarray:
        return ((self.index["patient"] == patient) & (self.index["split"] == "train")).to_numpy()

    def _changed(self, patient: str, features: torch.Tensor, malignant: np.ndarray) -> "Study":
        mine = self._mine(patient)
        index = self.index.copy()
        index["malignant"] = np.where(mine, malignant, index["malignant"])
        index["source_sha256"] = np.where(mine, "0" * 64, index["source_sha256"])
        return Study(index, torch.where(torch.tensor(mine)[:, None, None], features, self.features))


class Replay:
    """The noisy sums of a first run, handed out again in every later one."""

    def __init__(self) -> None:
        self.sums: list[list[torch.Tensor]] = []
        self.recording = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        original = GridSum.released
        given = 0

        def released(total: GridSum, *args: Any) -> list[torch.Tensor]:
            noisy = original(total, *args)
            nonlocal given
            if not self.recording:  # every later run takes as many steps as the first
                given += 1
                return self.sums[(given - 1) % len(self.sums)]
            self.sums.append(noisy)
            return noisy

        GridSum.released = released  # type: ignore[method-assign]
        try:
            yield
        finally:
            GridSum.released = original  # type: ignore[method-assign]


def public_features(study: Study) -> torch.Tensor:
    """(60, 4, d) of other people, the same for every study."""
    return torch.randn(60, 4, study.features.shape[-1], generator=torch.Generator().manual_seed(7))


def bundle(
    study: Study,
    config: Config,
    folder: Path,
    *,
    plant: Plant | None = None,
    public: Callable[[Study], torch.Tensor] = public_features,
) -> dict[str, bytes]:
    """The files of the bundle that `study` leads to. `plant` puts something else into its privacy.json.

    public: what a preparation is learnt from, where the recipe has one.
    """
    shutil.rmtree(folder, ignore_errors=True)
    cache = Cache(folder.parent / "cache")
    name = fingerprint([study.index.to_csv(index=False), study.features.double().sum().item()])
    patches = _input(folder / "patches", name, cache, index=study.index)
    features = _input(folder / "features", name, cache, features=study.features)
    output = _output(folder / f"train_classifier/real-{name}", cache)
    inputs = {"patches": patches, "features": features}
    if config.recipe.components is not None:
        learnt_from = _input(folder / "public", "public", cache, features=public(study))
        fitting = _output(folder / "preparation/public", cache)
        fitted = fit_preparation.run(config, {"features": learnt_from}, fitting)
        inputs["preparation"] = fitting.finish({"stage": "fit_preparation", "fingerprint": "public"})
        assert fitted.metrics["components"] == config.recipe.components
    result = train_classifier.run(config, inputs, output)
    ledger = node_of(config, "train_classifier").ledger(most_images=result.most_images)
    ledger = replace(ledger, events=tuple(replace(e, artifact=output.folder.name) for e in ledger.events))
    privacy = result.manifest["privacy"] | {"ledger": {**ledger.to_dict(), "statement": statement(ledger)}}
    trained = output.finish({"stage": "train_classifier", "fingerprint": name, "privacy": privacy})
    original = export._privacy
    if plant is not None:
        export._privacy = lambda *args: {**original(*args), "planted": plant(study, trained)}
    try:
        output = _output(folder / f"export/real-{name}", cache)
        export.run(config, {"classifier": trained}, output)
    finally:
        export._privacy = original
    files = sorted((output.folder / export.BUNDLE).rglob("*"))
    return {path.name: path.read_bytes() for path in files}


def _output(folder: Path, cache: Cache) -> Output:
    folder.mkdir(parents=True)
    return Output(folder, cache)


def _input(folder: Path, name: str, cache: Cache, **content: Any) -> Artifact:
    output = _output(folder, cache)
    if "index" in content:
        content["index"].to_csv(folder / "index.csv", index=False)
    else:
        save_file({"features": content["features"].contiguous()}, folder / "features.safetensors")
    return output.finish({"stage": folder.name, "fingerprint": name})


def differing(
    study: Study,
    config: Config,
    folder: Path,
    variants: dict[str, Callable[[], Study]],
    **planted: Any,
) -> list[str]:
    """Names of the variants whose bundle differs from the study's own by a byte, under replayed noise.

    planted: `plant` and `public` of `bundle`.
    """
    replay = Replay()
    few = partial(patient_draws, resamples=20)  # intervals are half of the time, and the bundle has none
    with replay.installed(), mock.patch.object(performance, "patient_draws", few):
        expected = bundle(study, config, folder, **planted)
        replay.recording = False
        return [
            name
            for name, variant in track(variants.items(), "variants", total=len(variants))
            if bundle(variant(), config, folder, **planted) != expected
        ]


def variants_of(study: Study, *, changed: int) -> dict[str, Callable[[], Study]]:
    """Every patient removed; the first `changed` also null, and with other pixels and the other label.

    Made one at a time: all together would not fit a laptop's memory.
    """
    found: dict[str, Callable[[], Study]] = {}
    for number, patient in enumerate(study.patients):
        found[f"{patient} removed"] = partial(study.without, patient)
        if number < changed:
            found[f"{patient} null"] = partial(study.null, patient)
            found[f"{patient} other"] = partial(study.other, patient, number)
    return found


def main() -> None:
    from tests.conftest import config_of

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("patches", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--public", action="store_true", help="recipe=dp_public, on random public features")
    arguments = parser.parse_args()
    index = pd.read_csv(arguments.patches / "index.csv", keep_default_na=False, dtype=str).astype(
        {"malignant": int}
    )
    study = Study(index, load_file(arguments.features / "features.safetensors")["features"])
    recipe = ("public=toy", "recipe=dp_public") if arguments.public else ()
    config = config_of(*WORDS, *recipe, "privacy.public_count=578", f"recipe.epochs={arguments.epochs}")
    started = time.monotonic()
    variants = variants_of(study, changed=50)
    with tempfile.TemporaryDirectory() as folder:
        found = differing(study, config, Path(folder) / "run", variants)
    print(f"{len(variants)} variants of {len(study.patients)} patients in {time.monotonic() - started:.0f} s; "
          f"bundles that differ: {found or 'none'}")  # fmt: skip


WORDS = ("stage=export", "dataset=toy", "classifier=swin_micro", "recipe=dp_gd", "privacy.unit=patient",
         "privacy.randomness=secure", "privacy.epsilon=6", "runtime.device=cpu")  # fmt: skip

if __name__ == "__main__":
    main()
