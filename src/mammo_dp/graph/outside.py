"""The identity of what comes from outside: raw data, published images, weights."""

from pathlib import Path
from typing import Any

from mammo_dp import files
from mammo_dp.artifacts import Store
from mammo_dp.config import Config
from mammo_dp.data.sources import source_folders, synthetic_folder, table_of, toy_identity
from mammo_dp.errors import UserError


def raw_data(config: Config, store: Store) -> dict[str, str]:
    """Identity of each source's folder. Toy data is made from its settings, which identify it."""
    data = config.dataset
    if data.toy is not None:
        return {"toy": toy_identity(data.toy)}
    identities = {}
    for name, folder in source_folders(data).items():
        source = data.sources[name]
        if not folder.is_dir():
            if source.optional:
                continue
            fault = "is a file; give its folder" if folder.is_file() else "does not exist"
            raise UserError(_no_data(config, name, folder, fault))
        try:
            identities[name] = _identity(config, folder, source.reader)
        except FileNotFoundError:
            if not source.optional:
                raise UserError(_no_data(config, name, folder, "holds no files")) from None
    if not identities:
        raise UserError(
            f"dataset.root={data.root} holds none of the folders of dataset={data.name} "
            f"({', '.join(s.root for s in data.sources.values())}); set dataset.root to the folder that does"
        )
    return identities


def _identity(config: Config, folder: Path, reader: str) -> str:
    if reader != "custom":
        return files.tree_identity(folder)
    from mammo_dp.data.readers import custom  # loads numpy

    return custom.identity(table_of(config.dataset, folder))


def _no_data(config: Config, source: str, folder: Any, fault: str) -> str:
    return (
        f"the folder of {source} for dataset={config.dataset.name}, {folder}, {fault}; set dataset.root=FOLDER or "
        f"dataset.sources.{source}.root=FOLDER (README, 'Data and weights', says where the data comes from)"
    )


def synthetic_images(config: Config, store: Store) -> dict[str, str]:
    folder = synthetic_folder(config)
    try:
        return {"synthetic": files.tree_identity(folder)}
    except FileNotFoundError:
        raise UserError(
            f"the folder of synthetic images, {folder}, does not exist or holds no files; set synthetic.root=FOLDER "
            "(README, 'Data and weights', says where they come from)"
        ) from None


def weights(config: Config, store: Store) -> dict[str, str]:
    classifier = config.classifier
    path = classifier.weights_file
    if path is None:
        return {"weights": str(classifier.named_weights)}
    if not path.is_file():
        raise UserError(
            f"classifier.weights={classifier.weights} is not a file; give a .safetensors or .pth file of "
            f"{classifier.backbone}, or classifier.weights=imagenet to download it"
        )
    return {"weights": files.file_identity(path, store.cache)}


def backbone_weights(config: Config, store: Store) -> dict[str, str]:
    """Of the weights that a run starts from; those of synpre are an artifact, not from outside."""
    return {} if config.experiment.continues_synpre else weights(config, store)


def model_and_images(config: Config, store: Store) -> dict[str, str]:
    """Of the classifier's files, and of what it is to score."""
    from mammo_dp.data import unlabelled  # loads numpy

    model = Path(str(config.predict.model))
    identities = {
        path.name: files.file_identity(path, store.cache) for path in sorted(model.glob("*.safetensors"))
    }
    return {**identities, "images": unlabelled.identity(Path(str(config.predict.input)))}


def evaluation_weights(config: Config, store: Store) -> dict[str, str]:
    """Identity of each feature space's weights or library. What is not there is left out of the evaluation."""
    from mammo_dp.metrics import radiomics  # quick to import

    def of(given: str | None) -> str:
        if given is None or not Path(given).is_file():
            return "download" if given == "download" else "absent"
        return files.file_identity(Path(given), store.cache)

    evaluation, classifier = config.evaluation, config.classifier
    identities = {
        "backbone": classifier.named_weights or of(str(classifier.weights_file)),
        "inception": of(evaluation.inception_weights),
        "radimagenet": of(evaluation.radimagenet_weights),
        "radiomics": radiomics.installed() or "absent",
    }
    return {space: identities[space] for space in evaluation.spaces}
