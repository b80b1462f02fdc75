"""The model card of a trained classifier, in the form of the Hugging Face hub (Mitchell et al. 2019)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mammo_dp.metrics.classification import METRICS
from mammo_dp.reporting.table1 import SOURCES, interval_words, short

TRAINED_ON = {
    "real": "real masses",
    "syn": "synthetic masses alone",
    "synpre": "synthetic masses alone",
    "real_syn": "real and synthetic masses",
    "synpre_realft": "real masses",
}
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
CARD_METRICS = {name: metric.label for name, metric in METRICS.items() if metric.in_card}


def model_card(
    settings: Mapping[str, Any],
    *,
    statement: str,
    bundle: bool,
    epsilon: str,
    test: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Markdown. `settings`: those that may leave (export.released_settings); `epsilon`: end to end, in words.

    test: metrics by test set, exact functions of test patients' images; None leaves them out.
    """
    name = f"{settings['experiment']}-{settings['dataset']}"
    results = [
        EvalResult(
            task_type="image-classification", dataset_type=source, dataset_name=SOURCES.get(source, source),
            metric_type=metric, metric_name=words, metric_value=round(found[metric], 4),
        )
        for source, found in (test or {}).items()
        for metric, words in CARD_METRICS.items()
        if found.get(metric) is not None
    ]  # fmt: skip
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["mammography", "breast-mass", "differential-privacy", "research-only"],
        model_name=name,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        settings=settings,
        trained_on=TRAINED_ON[settings["experiment"]],
        statement=statement,
        bundle=bundle,
        epsilon=epsilon,
        rows=_rows(test or {}),
    )
    return card.content.strip() + "\n"


def _rows(test: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for source, found in test.items():
        for level in ("patch", "lesion", "patient"):
            metrics = found if level == "patch" else found.get(level)
            if metrics is None or metrics["auroc"] is None:
                continue
            cells = [
                f"{short(metrics[m])} {interval_words(metrics['intervals'].get(m))}".strip()
                for m in CARD_METRICS
            ]
            rows.append(
                [SOURCES.get(source, source), level, f"{metrics['n']} ({metrics['n_malignant']})", *cells]
            )
    return rows
