"""Where the folder of each source of a dataset lies."""

from pathlib import Path

from mammo_dp.config import Config
from mammo_dp.config.schema import Dataset, Toy
from mammo_dp.errors import UserError
from mammo_dp.files import fingerprint

TOY_VERSION = 1  # raised when data/toy.py draws other phantoms for the same settings


def toy_identity(toy: Toy) -> str:
    """Identity of generated phantoms: the settings they are drawn from. 8 hex digits."""
    return fingerprint({"toy": toy.model_dump(), "version": TOY_VERSION})


def source_folders(data: Dataset) -> dict[str, Path]:
    """Folder of each source by name. Raises UserError if dataset.root is needed and not set."""
    if data.root is None:
        if not all(Path(source.root).is_absolute() for source in data.sources.values()):
            raise UserError(
                f"dataset={data.name} needs its folder of raw data: set dataset.root=FOLDER "
                "(README, 'Data and weights', says where the data comes from; dataset=toy needs nothing)"
            )
        root = Path()
    elif data.toy is not None:
        root = Path(data.root) / toy_identity(data.toy)
    else:
        root = Path(data.root)
    return {name: root / source.root for name, source in data.sources.items()}


def table_of(data: Dataset, folder: Path) -> Path:
    """The table of a custom source in `folder`."""
    return folder / (data.table or "")


def pseudonyms_of(data: Dataset, folder: Path) -> Path:
    """The file of pseudonyms of a custom source: dataset.pseudonyms, or beside the table."""
    return Path(data.pseudonyms) if data.pseudonyms else table_of(data, folder).with_name("pseudonyms.csv")


def synthetic_folder(config: Config) -> Path:
    """Folder of the synthetic images. Raises UserError if it is relative and dataset.root is not set."""
    root = Path(config.synthetic.root or "")
    if root.is_absolute():
        return root
    if config.dataset.root is None:
        raise UserError(
            f"synthetic={config.synthetic.name} needs its folder of images: set synthetic.root=FOLDER (absolute), or "
            "dataset.root"
        )
    return Path(config.dataset.root) / root
