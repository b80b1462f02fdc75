"""`stage=export`: a finished classifier -> the bundle that may be published."""

from mammo_dp.engine.stage import Input, Stage
from mammo_dp.stages.extract_features import synpre_input
from mammo_dp.stages.train_classifier import training_label


class Export(Stage):
    name, version = "export", 2
    summary = "a finished classifier -> the bundle that may be published"
    uses = ("export",)
    optional = True
    rechecks = True

    def label(self, config):
        return training_label(config)

    def inputs(self, config):
        return {"classifier": Input("train_classifier"), **synpre_input(config)}

    def events(self, config, cache):
        return ()  # beyond those of the classifier

    def closing_lines(self, config, artifact):
        from mammo_dp.engine.status import headline
        from mammo_dp.stages.export.work import total_of_bundles

        yield headline(artifact)
        yield total_of_bundles(config, artifact)
