"""`stage=predict`: a trained classifier and your patches or table -> scores."""

from pathlib import Path

from mammo_dp import files
from mammo_dp.engine.stage import Stage
from mammo_dp.stages.common import IDENTIFIED_BY_CONTENT


class Predict(Stage):
    name, version = "predict", 3
    summary = "a trained classifier and your patches or table -> scores"
    uses = ("predict",)
    optional = True

    def ignores(self, config):
        return {f"predict.{name}": IDENTIFIED_BY_CONTENT for name in ("model", "input")}

    def label(self, config):
        return "scores"

    def external(self, config, store):
        """Identity of the classifier's files, and of what it is to score."""
        from mammo_dp.data import unlabelled  # loads numpy

        model = Path(str(config.predict.model))
        named = (
            {"model": model} if model.is_file() else {p.name: p for p in sorted(model.glob("*.safetensors"))}
        )
        identities = {name: files.file_identity(path, store.cache) for name, path in named.items()}
        return {**identities, "images": unlabelled.identity(Path(str(config.predict.input)))}

    def events(self, config, cache):
        return ()  # beyond what the model has revealed already

    def is_confidential(self, config):
        return True
