"""`stage=evaluate_synthetic`: how near synthetic masses are to real ones, and whether they are copies (Fig. 2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from mammo_dp.config import Config
from mammo_dp.data import synthetic
from mammo_dp.data.patch_set import PatchSet, encoded, write_png
from mammo_dp.data.transforms import FLIPS, flip
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.errors import UserError
from mammo_dp.metrics.comparison import Comparison, ImageSet, compare
from mammo_dp.metrics.image_faults import wrapped_pixels
from mammo_dp.metrics.memorization import Nearest, copies, membership_auc, nearest
from mammo_dp.models.feature_spaces import FeatureSpace, open_space
from mammo_dp.reporting import paper
from mammo_dp.reporting.figure2 import PAPER_DATASETS, figure2
from mammo_dp.reporting.mosaic import mosaic
from mammo_dp.reporting.privacy_card import privacy_card
from mammo_dp.training import device as devices

SHOWN = 8  # masses of each row of the figure
WORST = 10  # pairs on the page of the nearest ones
PIXELS = "pixels"
CARD = "privacy_card.md"


def check(config: Config) -> None:
    """Refuse a device that is not there."""
    devices.prepare(config.runtime)


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    device = devices.prepare(config.runtime)
    patches = PatchSet.load(inputs["patches"]).joined(PatchSet.load(inputs["synthetic"]))
    sets = image_sets(patches)
    if "train" not in sets:
        raise UserError(
            f"dataset={config.dataset.name} has no training patches to set the synthetic ones beside; add a source "
            "whose role is development"
        )
    pairs = _pairs(config, sets)
    spaces, missing = _open(config, device, output)
    comparisons: list[Comparison] = []
    features: dict[str, torch.Tensor] = {PIXELS: _pixels(patches)}
    for space in spaces:
        features[space.name] = space.features(patches, output.cache)
        comparisons += compare(
            sets, pairs, features[space.name][:, 0].numpy(), space=space.name, parts=config.evaluation.subsets,
            seed=config.evaluation.seed,
        )  # fmt: skip
    _table(comparisons).to_csv(output.folder / "distances.csv", index=False)
    flipped = [name for name in features if features[name].shape[1] == FLIPS]
    held = [sets[name].positions for name in config.evaluation.held_out if name in sets]
    memory: dict[str, Any] = {}
    if held:
        kept = {name: features[name] for name in flipped}
        memory = _memorization(config, patches, kept, np.sort(np.concatenate(held)), output)
    else:
        missing["memorization"] = (
            f"memorisation is left out: dataset={config.dataset.name} has no {' or '.join(config.evaluation.held_out)} "
            "patches of held-out patients"
        )
    wrapped = {name: int((wrapped_pixels(patches.images[s.positions]) > 0).sum()) for name, s in sets.items()}
    _figure(config, patches, sets, comparisons, memory, missing, output)
    return StageResult(
        metrics={
            "distances": [_record(c) for c in comparisons],
            "memorization": memory,
            "with_wrapped_pixels": wrapped,
            "images": {name: len(s.positions) for name, s in sets.items()},
            "left_out": missing,
        },
        summary=_summary(comparisons, memory, wrapped, missing),
        manifest={"device": devices.describe(device)},
    )


def describe(config: Config, result: StageResult, ledger: Mapping[str, Any], output: Output) -> None:
    """Write the privacy card of the synthetic set, for its owner."""
    card = privacy_card(
        result.metrics["memorization"], result.metrics["left_out"], statement=ledger["statement"],
        synthetic=config.synthetic.name, dataset=config.dataset.name, images=result.metrics["images"],
    )  # fmt: skip
    (output.folder / CARD).write_text(card)


def image_sets(patches: PatchSet) -> dict[str, ImageSet]:
    """The sets that distances are measured between, without empty ones: train, val, test, external, synthetic.

    External are the test patches of sources that have no others.
    """
    index = patches.index
    developed = set(index["source"][index["split"].isin(["train", "val"])])
    external = (index["split"] == "test") & ~index["source"].isin(sorted(developed))
    chosen = {name: (index["split"] == name) & ~external for name in ("train", "val", "test")}
    chosen |= {"external": external, "synthetic": index["split"] == synthetic.SOURCE}
    positions = {name: np.flatnonzero(which) for name, which in chosen.items()}
    return {
        name: ImageSet(rows, patches.malignant[rows], patches.patients[rows])
        for name, rows in positions.items()
        if len(rows)
    }


def _pairs(config: Config, sets: Mapping[str, ImageSet]) -> list[tuple[str, str]]:
    wanted = [(pair.partition(":")[0], pair.partition(":")[2]) for pair in config.evaluation.pairs]
    return [(first, second) for first, second in wanted if first in sets and second in sets]


def _open(config: Config, device: torch.device, output: Output) -> tuple[list[FeatureSpace], dict[str, str]]:
    """The spaces that can be used here, and for each other why not."""
    spaces, missing = [], {}
    for name in config.evaluation.spaces:
        try:
            spaces.append(open_space(name, config, device, output.cache))
        except UserError as error:
            missing[name] = str(error)
    return spaces, missing


def _pixels(patches: PatchSet) -> torch.Tensor:
    """(n, FLIPS, size * size) uint8."""
    images = torch.from_numpy(patches.images)[:, None]
    return torch.stack([flip(images, variant).flatten(1) for variant in range(FLIPS)], dim=1)


# --- memorisation -------------------------------------------------------------------------------------------------


def _memorization(
    config: Config, patches: PatchSet, features: Mapping[str, torch.Tensor], held: np.ndarray, output: Output
) -> dict[str, Any]:
    """Membership AUC in each space, nearest.csv, and a page of the pairs that are most alike.

    held: positions of the patients that training patients are compared with.
    """
    train, made = patches.rows("train"), patches.rows(synthetic.SOURCE)
    found: dict[str, Any] = {}
    tables = []
    for space, table in features.items():
        score = membership(
            patches, table, train=train, held=held, made=made, draws=config.evaluation.bootstrap,
            seed=config.evaluation.seed,
        )  # fmt: skip
        found[space], to_train, to_held = score
        tables.append(
            pd.DataFrame(
                {
                    "space": space,
                    "synthetic": patches.index["patch"].to_numpy()[made],
                    "nearest_train": patches.index["patch"].to_numpy()[train[to_train.partner]],
                    "flip": to_train.flip,
                    "correlation_train": to_train.correlation,
                    "nearest_held_out": patches.index["patch"].to_numpy()[held[to_held.partner]],
                    "correlation_held_out": to_held.correlation,
                }
            )
        )
        page = _worst_pairs(patches, space, made, (train, to_train), (held, to_held))
        write_png(output.folder / f"nearest_{space}.png", encoded(page))
    pd.concat(tables).to_csv(output.folder / "nearest.csv", index=False, float_format="%.6f")
    return found


def membership(
    patches: PatchSet,
    features: torch.Tensor,
    *,
    train: np.ndarray,
    held: np.ndarray,
    made: np.ndarray,
    draws: int,
    seed: int,
) -> tuple[dict[str, Any], Nearest, Nearest]:
    """The membership AUC, and for each synthetic image its nearest training and its nearest held-out image.

    features: (n, FLIPS, d) of all patches; positions of training, held-out and synthetic ones.
    """
    samples = features[made, 0]
    members, to_train = nearest(features[train], samples)
    others, to_held = nearest(features[held], samples)
    auc = membership_auc(
        members.correlation,
        others.correlation,
        member_patients=patches.patients[train],
        other_patients=patches.patients[held],
        draws=draws,
        seed=seed,
    )
    _, calibration = nearest(features[train], features[held, 0])
    found = {
        **auc,
        "largest_correlation": float(to_train.correlation.max()),
        "largest_correlation_of_held_out": float(calibration.correlation.max()),
        "copies": copies(
            to_train.correlation, calibration.correlation, held_out_patients=patches.patients[held], draws=draws,
            seed=seed,
        ),
    }  # fmt: skip
    return found, to_train, to_held


def _worst_pairs(
    patches: PatchSet,
    space: str,
    made: np.ndarray,
    train: tuple[np.ndarray, Nearest],
    held: tuple[np.ndarray, Nearest],
) -> np.ndarray:
    """Synthetic images most like a training image, beside it and beside the nearest held-out one, flipped to match."""
    rows = []
    for number in np.argsort(-train[1].correlation)[:WORST]:
        pair = []
        for positions, near in (train, held):
            image = torch.from_numpy(patches.images[positions[near.partner[number]]])[None]
            pair.append(flip(image, int(near.flip[number]))[0].numpy())
        words = f"train {train[1].correlation[number]:.3f}\nheld out {held[1].correlation[number]:.3f}"
        rows.append((words, [patches.images[made[number]], *pair]))
    return mosaic(rows, heading=f"{space}: synthetic, nearest training, nearest held-out")


# --- words, tables, pictures --------------------------------------------------------------------------------------


def _record(comparison: Comparison) -> dict[str, Any]:
    c = comparison
    return {
        "first": c.first, "second": c.second, "class": c.label, "space": c.space, "metric": c.metric, "mean": c.mean,
        "std": c.std, "values": list(c.values), "n_first": c.n_first, "n_second": c.n_second, "features": c.features,
        "warning": c.warning,
    }  # fmt: skip


def _table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    return pd.DataFrame(
        [_record(c) | {"values": " ".join(f"{v:.6g}" for v in c.values)} for c in comparisons]
    )


def _figure(
    config: Config,
    patches: PatchSet,
    sets: Mapping[str, ImageSet],
    comparisons: Sequence[Comparison],
    memory: Mapping[str, Any],
    missing: Mapping[str, str],
    output: Output,
) -> None:
    rng = np.random.default_rng(config.evaluation.seed)
    masses = []
    for label, words in enumerate(("benign", "malignant")):
        for name in ("train", "synthetic"):
            rows = sets[name].positions[sets[name].malignant == label]
            chosen = rng.choice(rows, size=min(SHOWN, len(rows)), replace=False)
            masses.append((f"{'real' if name == 'train' else name}\n{words}", patches.images[chosen]))
    beside_paper = config.dataset.name in PAPER_DATASETS
    table = _figure_table(comparisons, beside_paper=beside_paper)
    words = [
        f"Membership AUC in {space}: {m['auc']:.3f}"
        + (f" [{m['low']:.3f}, {m['high']:.3f}]" if m["low"] is not None else "")
        for space, m in memory.items()
    ]
    words += [f"Left out: {', '.join(missing)}."] if missing else []
    note = f"{config.evaluation.subsets} random parts of each set, no patient in two. {'. '.join(words)}"
    if beside_paper:
        note = f"{note}\n{paper.SLIPS}"
    figure2(output.folder / "figure2.png", masses, table, note=note)


def _figure_table(comparisons: Sequence[Comparison], *, beside_paper: bool) -> list[dict[str, str]]:
    """One line for each pair and space, and for each class where real and synthetic images are compared.

    Beside the paper, also one for each of its numbers that was not measured here.
    """
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    columns = ("FID, FRD", *(["paper"] if beside_paper else []), "KID", "precision", "recall")

    def row_of(first: str, second: str, label: str, space: str, n: str) -> dict[str, str]:
        head = {"pair": f"{first} : {second}", "class": label, "space": space, "N": n}
        return rows.setdefault((first, second, label, space), head | dict.fromkeys(columns, ""))

    for c in comparisons:
        if c.label != "all" and (c.first == c.second or synthetic.SOURCE not in (c.first, c.second)):
            continue
        row = row_of(c.first, c.second, c.label, c.space, f"{c.n_first} : {c.n_second}")
        column = {"fid": "FID, FRD", "frd": "FID, FRD", "kid": "KID"}.get(c.metric, c.metric)
        row[column] = _number(c)
        if beside_paper and column == "FID, FRD":
            row["paper"] = paper.distance((c.first, c.second), c.metric, c.space, c.label)
    for (first, second), name in paper.DISTANCES if beside_paper else ():
        metric, space = name.split()
        row_of(first, second, "all", space, "")["paper"] = paper.distance(
            (first, second), metric, space, "all"
        )
    return list(rows.values())


def _number(c: Comparison) -> str:
    if c.mean is None or c.std is None:
        return "too few images"
    return f"{c.mean:.3g} ± {c.std:.2g}{'*' if c.warning else ''}"


def _summary(
    comparisons: Sequence[Comparison],
    memory: Mapping[str, Any],
    wrapped: Mapping[str, int],
    missing: Mapping[str, str],
) -> str:
    lines = [
        f"{c.first}:{c.second} {c.metric} in {c.space} {_number(c)} (N {c.n_first}:{c.n_second})"
        for c in comparisons
        if c.label == "all" and c.metric in ("fid", "frd")
    ]
    warned = list(
        dict.fromkeys(f"{c.space}: {c.warning}" for c in comparisons if c.warning and c.label == "all")
    )
    lines += [f"* {warning}" for warning in warned]
    for space, m in memory.items():
        interval = "" if m["low"] is None else f" [{m['low']:.3f}, {m['high']:.3f}]"
        lines.append(
            f"membership AUC in {space} {m['auc']:.3f}{interval} ({m['members']} members, {m['held_out']} held out)"
        )
    lines.append("images with wrapped pixels: " + ", ".join(f"{name} {n}" for name, n in wrapped.items()))
    lines += missing.values()
    return "\n".join(lines)
