"""The stages, in the order in which their results are read. Each has a folder; importing this loads no torch."""

from mammo_dp.config import Config
from mammo_dp.engine.build import Node
from mammo_dp.engine.stage import Stage
from mammo_dp.stages.audit_privacy import AuditPrivacy
from mammo_dp.stages.check_public_images import CheckPublicImages
from mammo_dp.stages.evaluate_synthetic import EvaluateSynthetic
from mammo_dp.stages.export import Export
from mammo_dp.stages.extract_features import ExtractFeatures, ExtractPublicFeatures, ExtractSyntheticFeatures
from mammo_dp.stages.extract_patches import ExtractPatches
from mammo_dp.stages.extract_public_patches import ExtractPublicPatches
from mammo_dp.stages.fit_preparation import FitPreparation
from mammo_dp.stages.predict import Predict
from mammo_dp.stages.report import Report
from mammo_dp.stages.sample_synthetic import SampleSynthetic
from mammo_dp.stages.train_classifier import TrainClassifier
from mammo_dp.stages.train_gan import TrainGan

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        ExtractPatches(),
        TrainGan(),
        SampleSynthetic(),
        EvaluateSynthetic(),
        ExtractFeatures(),
        ExtractSyntheticFeatures(),
        ExtractPublicPatches(),
        ExtractPublicFeatures(),
        CheckPublicImages(),
        FitPreparation(),
        TrainClassifier(),
        AuditPrivacy(),
        Report(),
        Export(),
        Predict(),
    )
}


def node_of(config: Config, stage: str | None = None) -> Node:
    """The node of a stage, by default of the one that the configuration asks for."""
    return Node(STAGES[stage or config.stage], config, STAGES)
