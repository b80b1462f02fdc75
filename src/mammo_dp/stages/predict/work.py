"""`stage=predict`: a trained classifier's scores for a folder of patches or a table of images."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from mammo_dp.config import Config
from mammo_dp.data import unlabelled
from mammo_dp.data.cutting import Geometry, cut_image
from mammo_dp.data.transforms import FLIPS
from mammo_dp.engine.artifacts import Artifact, Output, StageResult, Store
from mammo_dp.engine.progress import track
from mammo_dp.engine.workers import each, workers_for
from mammo_dp.errors import UserError
from mammo_dp.files import Cache
from mammo_dp.models.bundle import Saved
from mammo_dp.models.features import all_flips, encoder
from mammo_dp.models.head import p_malignant
from mammo_dp.models.published_classifier import open_classifier
from mammo_dp.training import device as devices

PREDICTIONS = "predictions.csv"


def check(config: Config) -> None:
    """Refuse a model that is none or whose backbone's weights are others, and an input with nothing to score."""
    devices.prepare(config.runtime)
    saved = open_classifier(Path(str(config.predict.model)))
    saved.backbone(config.classifier, Store.of(config).cache)
    unlabelled.wanted(Path(str(config.predict.input)), _geometry(saved))


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    """Write predictions.csv: the row, the SHA-256 of its image, the probability of malignant or why there is none."""
    device = devices.prepare(config.runtime)
    saved = open_classifier(Path(str(config.predict.model)))
    asked = unlabelled.wanted(Path(str(config.predict.input)), _geometry(saved))
    patches, lines = {}, {}
    tasks = [item.task for item in asked if item.task is not None]
    workers = workers_for(config.runtime.workers, len(tasks))
    for task, made in track(each(cut_image, tasks, workers=workers), "patches", total=len(tasks)):
        ((number, _),) = task.lesions
        reason = made.outcomes[number] if made else "this image ended the process that read it"
        lines[number] = (made.sha256 if made else "", reason if isinstance(reason, str) else "")
        if made and made.pngs:
            patches[number] = cv2.imdecode(np.frombuffer(made.pngs[number], np.uint8), cv2.IMREAD_GRAYSCALE)
    order = sorted(patches)
    scores = dict(
        zip(order, _scores([patches[n] for n in order], saved, config, device, output.cache), strict=True)
    )
    table = pd.DataFrame(
        {
            "row": [item.row for item in asked],
            **({"file": [item.name for item in asked]} if config.predict.names else {}),
            "image_sha256": [lines.get(n, ("", ""))[0] for n in range(len(asked))],
            "p_malignant": [scores.get(n) for n in range(len(asked))],
            "reason": [item.reason or lines.get(n, ("", ""))[1] for n, item in enumerate(asked)],
        }
    )
    table.to_csv(output.folder / PREDICTIONS, index=False, float_format="%.17g")
    left_out = len(asked) - len(scores)
    if not scores:
        raise UserError(f"none of the {len(asked)} images could be scored ({table['reason'].iloc[0]})")
    return StageResult(
        metrics={"scored": len(scores), "not_scored": left_out},
        summary=f"{len(scores)} scores in {output.folder / PREDICTIONS}"
        + (f"; {left_out} rows have none, and the reason why" if left_out else ""),
        manifest={"device": devices.describe(device)},
    )


def _geometry(saved: Saved) -> Geometry:
    return Geometry(**saved.record["patches"])


@torch.no_grad()
def _scores(
    patches: list[np.ndarray], saved: Saved, config: Config, device: torch.device, cache: Cache
) -> list[float]:
    """Probability of malignant, as the run that trained the classifier would score its test patches."""
    record = saved.record
    settings = config.classifier.model_copy(update=record["classifier"])
    encode = encoder(
        saved.backbone(config.classifier, cache),
        device,
        precision=record["precision"],
    )
    head, size = saved.head().to(device), config.runtime.batch_size
    prepare = saved.preparation()
    flips = FLIPS if record["recipe"]["test_flips"] or prepare.average else 1
    found: list[float] = []
    for start in track(range(0, len(patches), size), "scores", total=-(-len(patches) // size)):
        features = all_flips(np.stack(patches[start : start + size]), encode, settings)[:, :flips].to(device)
        found += p_malignant(head(prepare(features))).mean(dim=1).tolist()
    return found
