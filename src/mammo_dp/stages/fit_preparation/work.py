"""`stage=fit_preparation`: standardise the public features and find their principal components."""

from collections.abc import Mapping

from safetensors.torch import load_file, save_file

from mammo_dp.config import Config
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.errors import UserError
from mammo_dp.files import to_json
from mammo_dp.models.preparation import PREPARATION, Directions
from mammo_dp.training import device as devices
from mammo_dp.training.features import FEATURES


def check(config: Config) -> None:
    """Refuse a recipe without components."""
    if config.recipe.components is None:
        raise UserError(f"recipe={config.recipe.name} has no components to find; set recipe=dp_public")


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    """Write preparation.safetensors: mean (d,), spread (d,), components (d, k), scales (k,) in float64; its record."""
    devices.prepare(config.runtime.model_copy(update={"device": "cpu"}))  # threads; the work is small
    features = load_file(inputs["features"].path(FEATURES))["features"]
    assert config.recipe.components is not None
    found = Directions.fit(features, components=config.recipe.components, whitening=config.recipe.whitening)
    images, _, width = features.shape
    record = config.public_images.model_dump(include={"name", "population", "licence", "citation"}) | {
        "images": images
    }
    save_file(
        {name: tensor.contiguous() for name, tensor in vars(found).items()},
        output.folder / PREPARATION,
        metadata={"record": to_json(record)},
    )
    return StageResult(
        metrics={"public_images": images, "features": width, "components": config.recipe.components},
        summary=f"{config.recipe.components} directions of {width} features, from {images} public patches",
    )
