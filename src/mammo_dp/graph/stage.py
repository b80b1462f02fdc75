"""What a stage of the graph is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mammo_dp.artifacts import Store
from mammo_dp.config import Config
from mammo_dp.files import Cache
from mammo_dp.privacy.events import Event
from mammo_dp.sections import GanPrivacy, Privacy


@dataclass(frozen=True)
class Input:
    """What a stage reads: another stage, under its own configuration with `changes` to the top level."""

    stage: str
    changes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    `module` holds `run(config, inputs, output) -> StageResult` and, if bad input can be told before any folder is
    made, `check(config)` and `check_ledger(config, ledger)`, which raise UserError. `describe(config, result, ledger,
    output)`, if there, writes what needs the ledger. It is imported only when it is
    needed: torch is slow to load.

    `events` has no default: whoever adds a stage must say what it does to private data, from the configuration alone,
    so that a claim can be refused before anything runs.
    """

    name: str
    summary: str  # one line for a person
    module: str
    version: int  # raised when the code changes results
    groups: tuple[str, ...]  # parts of the command line that it depends on
    label: Callable[[Config], str]
    settings: Callable[[Config], dict[str, Any]]  # the keys that change its result
    events: Callable[[Config, Cache], Iterable[Event]]  # its own; those of its inputs are added
    upstream: Callable[[Config], dict[str, Input]] = lambda config: {}  # role -> input
    outside: Callable[[Config, Store], dict[str, str]] = lambda config, store: {}  # identity of outside data
    assumptions: Callable[[Config], Iterable[str]] = lambda config: ()  # what the guarantee rests on
    # whose unit and delta its ledger is read at; where something is private, both must be among its settings
    claim: Callable[[Config], Privacy | GanPrivacy] = lambda config: config.privacy
    has_standing: bool = (
        False  # its module's standing(config, artifact) speaks of the whole folder when it is named
    )
    optional: bool = False  # nobody needs it who does not ask for it
    # reads every finished artifact of these stages instead of upstream nodes; of the first there must be one
    collects: tuple[str, ...] = ()
