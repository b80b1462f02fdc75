"""`stage=report`: all finished classifiers -> Table 1 beside the paper's, curves, one HTML page."""

from mammo_dp.engine.stage import Stage


class Report(Stage):
    name, version = "report", 6
    summary = "all finished classifiers -> Table 1 beside the paper's, curves, one HTML page"
    uses = ("privacy.unit", "privacy.delta")
    kept = False
    collects = ("train_classifier", "evaluate_synthetic", "audit_privacy")

    def label(self, config):
        return "table1"

    def events(self, config, cache):
        return ()  # beyond those of the runs it collects, which count together

    def closing_lines(self, config, artifact):
        yield f"report: {artifact.folder / 'report.html'}"
