"""What a stage is: everything that is said of one kind of work, in one class.

A stage lives in a folder of `stages/`: its class, which loads quickly, and the module `work`, which is imported when
the stage is about to run: `run(config, inputs, output)` and, where needed, `check`, `check_ledger` and `describe`.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mammo_dp.config import Config
from mammo_dp.config.schema import GanPrivacy, Privacy
from mammo_dp.engine.artifacts import Artifact, Output, StageResult, Store
from mammo_dp.files import Cache
from mammo_dp.privacy.events import Event

if TYPE_CHECKING:
    from mammo_dp.privacy.ledger import Ledger


@dataclass(frozen=True)
class Input:
    """What a stage reads: another stage, under the same configuration with `changes` to the top level."""

    stage: str
    changes: tuple[tuple[str, Any], ...] = ()


class Stage(ABC):
    """One kind of work. `CONTRIBUTING.md` shows how to add one.

    The fingerprint of its artifact hashes every setting under `uses` but those that `ignores` names, each with the
    reason: a setting that is forgotten costs a rebuild, never a wrong reuse.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for the command line's help."""
    version: ClassVar[int]
    """Raised when the code changes results."""
    uses: ClassVar[tuple[str, ...]]
    """Sections and keys that its result depends on."""
    optional: ClassVar[bool] = False
    """Whether status may leave it out when it says what to run next."""
    kept: ClassVar[bool] = True
    """Whether stage=clean keeps its artifacts for themselves, and not only for what was made from them."""
    collects: ClassVar[tuple[str, ...]] = ()
    """Stages of which it reads every finished artifact, instead of `inputs`; of the first there must be one."""
    rechecks: ClassVar[bool] = False
    """Whether its checks run again when a finished artifact is asked for: others may have been made since."""
    budget: ClassVar[str] = ""
    """The setting that limits its epsilon, for messages."""

    def ignores(self, config: Config) -> Mapping[str, str]:
        """Keys or patterns under `uses` that do not change the result, each with the reason."""
        return {}

    def derived(self, config: Config) -> Mapping[str, Any]:
        """Further entries of the fingerprint: numbers that are computed from settings outside `uses`."""
        return {}

    @abstractmethod
    def label(self, config: Config) -> str:
        """The readable part of the artifact's name."""

    def inputs(self, config: Config) -> Mapping[str, Input]:
        """What it reads, by role."""
        return {}

    def external(self, config: Config, store: Store) -> Mapping[str, str]:
        """Identity of the outside data that it reads. Raises UserError where it is missing."""
        return {}

    @abstractmethod
    def events(self, config: Config, cache: Cache) -> Iterable[Event]:
        """What it does to private data, from the configuration alone; the events of its inputs are added.

        It has no default, so that every stage states it, and a claim can be refused before anything runs.
        """

    def assumptions(self, config: Config) -> Iterable[str]:
        """What its guarantee rests on, one sentence each."""
        return ()

    def claim(self, config: Config) -> Privacy | GanPrivacy:
        """Whose unit and delta its ledger is read at; where something is private, both must be in the fingerprint."""
        return config.privacy

    def is_confidential(self, config: Config) -> bool:
        """Whether file names and messages of libraries may identify patients."""
        return config.dataset.is_confidential

    def overrides(self, config: Config, kept: list[str]) -> list[str]:
        """The overrides that make it, from those of a run that reads it."""
        return kept

    def precomputation(self, config: Config) -> Any | None:
        """What identifies an expensive computation that `precompute` puts into the cache; None if there is none."""
        return None

    def precompute(self, config: Config) -> None:
        """Done for several runs of a sweep at a time before they start."""

    def _work(self, name: str) -> Callable[..., Any] | None:
        """A function of the module `work` beside the class, imported now; None where it has no such thing."""
        module = f"{type(self).__module__}.work"
        try:
            return getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            return None

    def check(self, config: Config) -> None:
        """Refuse what is known to fail before any folder is made. Raises UserError."""
        if function := self._work("check"):
            function(config)

    def check_ledger(self, config: Config, ledger: "Ledger") -> None:
        """Refuse by what its ledger will say. Raises UserError."""
        if function := self._work("check_ledger"):
            function(config, ledger)

    def run(self, config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
        """Do the work and write files into `output.folder`."""
        function = self._work("run")
        assert function is not None
        return function(config, inputs, output)

    def describe(
        self, config: Config, result: StageResult, ledger: Mapping[str, Any], output: Output
    ) -> None:
        """Write what needs the ledger's record."""
        if function := self._work("describe"):
            function(config, result, ledger, output)

    def closing_lines(self, config: Config, artifact: Artifact) -> Iterable[str]:
        """What is printed whenever a finished artifact is named, beside its summary. Never stored."""
        return ()
