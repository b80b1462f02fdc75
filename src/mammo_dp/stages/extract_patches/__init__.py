"""`stage=extract_patches`: raw mammograms or published patches -> patches and their index."""

from pathlib import Path
from typing import Any

from mammo_dp import files
from mammo_dp.data.sources import source_folders, table_of, toy_identity
from mammo_dp.engine.stage import Stage
from mammo_dp.errors import UserError
from mammo_dp.stages.common import IDENTIFIED_BY_CONTENT


class ExtractPatches(Stage):
    name, version = "extract_patches", 4
    summary = "raw mammograms or published patches -> 128x128 mass patches and their index"
    uses = ("dataset", "patches")
    kept = False

    def ignores(self, config):
        return {
            "dataset.root": IDENTIFIED_BY_CONTENT,
            "dataset.sources.*.root": IDENTIFIED_BY_CONTENT,
            "dataset.sources.*.optional": "what is absent is not hashed",
            "dataset.table": IDENTIFIED_BY_CONTENT,
            "dataset.pseudonyms": IDENTIFIED_BY_CONTENT,
            "dataset.toy": "it identifies the phantoms, as outside data",
            "dataset.max_skipped": "a limit on failures: what was read is the same",
            "dataset.public_count": "not read by the extraction",
            "dataset.population": "not written into patches",
        }

    def label(self, config):
        return f"{config.dataset.name}-{config.dataset.split}"

    def external(self, config, store):
        """Identity of each source's folder. Phantoms are made from their settings, which identify them."""
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

    def events(self, config, cache):
        return ()  # no setting and no number that a released model depends on is estimated from the images

    def closing_lines(self, config, artifact):
        yield f"look at: {artifact.folder / 'contact_sheet.png'} and data_card.md beside it"


def _identity(config, folder: Path, reader: str) -> str:
    if reader != "custom":
        return files.tree_identity(folder)
    from mammo_dp.data.readers import custom  # loads numpy

    return custom.identity(table_of(config.dataset, folder))


def _no_data(config, source: str, folder: Any, fault: str) -> str:
    return (
        f"the folder of {source} for dataset={config.dataset.name}, {folder}, {fault}; set dataset.root=FOLDER or "
        f"dataset.sources.{source}.root=FOLDER (README, 'Data and weights', says where the data comes from)"
    )
