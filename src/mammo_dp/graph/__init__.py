"""The stage graph: which stages there are, what each reads, what changes its result, what it does to private data."""

from mammo_dp.config import Config
from mammo_dp.graph import events, outside, settings
from mammo_dp.graph.stage import Input, Stage
from mammo_dp.sections import GanPrivacy

__all__ = ["STAGES", "Input", "Stage"]

GENERATOR_GROUPS = ("dataset", "patches", "gan", "privacy", "runtime", "classifier")
TRAINING_GROUPS = (*GENERATOR_GROUPS, "experiment", "recipe", "pretraining", "synthetic", "seed")


def _of_the_generator(config: Config) -> GanPrivacy:
    return config.gan.privacy


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="extract_patches",
            summary="raw mammograms or published patches -> 128x128 mass patches and their index",
            module="mammo_dp.stages.extract_patches",
            version=2,
            groups=("dataset", "patches"),
            label=lambda config: f"{config.dataset.name}-{config.dataset.split}",
            settings=lambda config: {
                "dataset": settings.dataset_settings(config),
                "patches": config.patches.model_dump(),
            },
            events=events.no_events,
            outside=outside.raw_data,
        ),
        Stage(
            name="train_gan",
            summary="patches -> the generator of MCGAN, private at any finite gan.privacy.epsilon",
            module="mammo_dp.stages.train_gan",
            version=2,
            groups=GENERATOR_GROUPS,
            label=settings.generator_label,
            settings=settings.generator_settings,
            claim=_of_the_generator,
            events=events.generator_events,
            assumptions=events.generator_assumptions,
            upstream=settings.generator_inputs,
            optional=True,
        ),
        Stage(
            name="sample_synthetic",
            summary="synthetic masses of both classes, as patches of the split `synthetic`",
            module="mammo_dp.stages.sample_synthetic",
            version=2,
            groups=(*GENERATOR_GROUPS, "synthetic"),
            label=lambda config: f"{config.synthetic.name}-{config.synthetic.per_class}",
            settings=settings.synthetic_settings,
            claim=_of_the_generator,
            events=events.synthetic_events,
            assumptions=events.synthetic_assumptions,
            upstream=settings.synthetic_inputs,
            outside=lambda config, store: (
                outside.synthetic_images(config, store) if config.synthetic.name == "release" else {}
            ),
            optional=True,
        ),
        Stage(
            name="evaluate_synthetic",
            summary="distances between real and synthetic masses, memorisation -> Fig. 2",
            module="mammo_dp.stages.evaluate_synthetic",
            version=2,
            groups=(*GENERATOR_GROUPS, "synthetic", "evaluation"),
            label=lambda config: f"{config.dataset.name}-{config.synthetic.name}",
            settings=settings.evaluation_settings,
            claim=_of_the_generator,
            events=events.evaluation_events,
            upstream=lambda config: {
                "patches": Input("extract_patches"),
                "synthetic": Input("sample_synthetic"),
            },
            outside=outside.evaluation_weights,
            optional=True,
        ),
        Stage(
            name="extract_features",
            summary="patches -> features of the frozen backbone, for all four flips",
            module="mammo_dp.stages.extract_features",
            version=1,
            groups=(*GENERATOR_GROUPS, "synthetic", "experiment", "pretraining", "seed"),
            label=settings.feature_label,
            settings=settings.feature_settings,
            claim=_of_the_generator,
            events=events.no_events,
            upstream=settings.feature_inputs,
            outside=outside.backbone_weights,
        ),
        Stage(
            name="train_classifier",
            summary="patches and features -> a benign/malignant classifier, private at any finite epsilon",
            module="mammo_dp.stages.train_classifier",
            version=5,
            groups=TRAINING_GROUPS,
            label=settings.training_label,
            settings=settings.training_settings,
            events=events.training_events,
            assumptions=events.training_assumptions,
            upstream=settings.training_inputs,
            outside=lambda config, store: (
                {} if config.reads_features else outside.backbone_weights(config, store)
            ),
        ),
        Stage(
            name="audit_privacy",
            summary="a finished classifier -> membership attacks, lower bounds beside its claim",
            module="mammo_dp.stages.audit_privacy",
            version=3,
            groups=(*TRAINING_GROUPS, "audit"),
            label=settings.audit_label,
            settings=lambda config: config.audit.model_dump() | settings.ledger_settings(config),
            events=events.audit_events,
            upstream=lambda config: {
                "classifier": Input("train_classifier"),
                **settings.training_inputs(config),
            },
            optional=True,
        ),
        Stage(
            name="report",
            summary="all finished classifiers -> Table 1 beside the paper's, curves, one HTML page",
            module="mammo_dp.stages.report",
            version=5,
            groups=(),
            label=lambda config: "table1",
            settings=lambda config: {"unit": config.privacy.unit, "delta": config.privacy.delta},
            events=events.no_events,  # beyond those of the runs it collects, which count together
            collects=("train_classifier", "evaluate_synthetic", "audit_privacy"),
        ),
        Stage(
            name="export",
            summary="a finished classifier -> the bundle that may leave the building",
            module="mammo_dp.stages.export",
            version=1,
            groups=(*TRAINING_GROUPS, "export"),
            label=settings.training_label,
            settings=lambda config: {"accept": sorted(config.export.accept)},
            events=events.no_events,
            upstream=lambda config: {"classifier": Input("train_classifier"), **settings.body_input(config)},
            has_standing=True,
            optional=True,
        ),
        Stage(
            name="predict",
            summary="a trained classifier and your patches or table -> scores",
            module="mammo_dp.stages.predict",
            version=1,
            groups=("classifier", "predict", "runtime"),
            label=lambda config: "scores",
            settings=lambda config: {"names": config.predict.names},
            events=events.no_events,  # beyond what the model has revealed already
            outside=outside.model_and_images,
            optional=True,
        ),
    )
}
