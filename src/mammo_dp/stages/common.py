"""What several stages say alike: why settings do not count, and events and identities that they share."""

from mammo_dp.config import Config
from mammo_dp.engine.artifacts import Store
from mammo_dp.errors import UserError
from mammo_dp.files import file_identity

IDENTIFIED_BY_CONTENT = "its content is hashed as outside data"
SPEED = {
    f"runtime.{name}": "where and how fast"
    for name in (
        "device",
        "workers",
        "threads",
        "tensorboard",
        "batch_size",
        "memory_limit",
        "checkpoint_seconds",
    )
}
OF_THE_GAN = {f"runtime.{name}": "of the GAN's networks" for name in ("compile", "channels_last")}
WEIGHTS = {f"classifier.{name}": IDENTIFIED_BY_CONTENT for name in ("weights", "init_seed")}
COHORTS = {"train": "training", "val": "validation", "test": "test", "external": "external"}


def has_external(config: Config) -> bool:
    """Whether there is an external test set."""
    return any(source.role == "external" for source in config.dataset.sources.values())


def backbone_weights(config: Config, store: Store) -> dict[str, str]:
    """Identity of the weights that a run starts from; those of synpre are an artifact, not from outside."""
    classifier = config.classifier
    if config.experiment.continues_synpre:
        return {}
    path = classifier.weights_file
    if path is None:
        return {"weights": str(classifier.named_weights)}
    if not path.is_file():
        raise UserError(
            f"classifier.weights={classifier.weights} is not a file; give a .safetensors or .pth file of "
            f"{classifier.backbone}, or classifier.weights=imagenet to download it"
        )
    return {"weights": file_identity(path, store.cache)}
