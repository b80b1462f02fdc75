"""`stage=audit_privacy`: attack a finished classifier, and set the lower bound of epsilon beside its claim."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch

from mammo_dp.audit.dependence import Dependence
from mammo_dp.audit.findings import (
    Canaried,
    Claim,
    all_bounds,
    attack_table,
    canary_record,
    checks,
    contradicted,
    retrain_record,
    shares,
)
from mammo_dp.audit.membership import Attack
from mammo_dp.audit.residuals import TESTS, fresh_noise
from mammo_dp.audit.work import Records, most_canaries, pair, released_noise, retrained, with_canaries
from mammo_dp.config import Config
from mammo_dp.engine.artifacts import Artifact, Output, StageResult
from mammo_dp.engine.progress import track
from mammo_dp.errors import UserError
from mammo_dp.privacy.events import Event, Unit
from mammo_dp.privacy.ledger import events_of
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.rounding import rounded_up
from mammo_dp.training import checkpoint
from mammo_dp.training import device as devices
from mammo_dp.training.build import Task
from mammo_dp.training.plans import make_plan
from mammo_dp.training.units import training_patches, training_units

ATTACK = "attack.csv"
MOST_RUNS = 200  # of training with canaries
BLOCK = 250  # heads a checkpoint
UNITS: tuple[Unit, ...] = get_args(Unit)
Tensors = dict[str, torch.Tensor]


def check(config: Config) -> None:
    """Refuse a run that nothing can be learnt about."""
    devices.prepare(config.runtime)
    if not config.experiment.uses_real:
        raise UserError(
            f"experiment={config.experiment.name} trains on no private image, so there is no membership to find; "
            "stage=evaluate_synthetic measures what its generator remembers"
        )
    reason = config.no_retrains
    if (reason or not config.audit.models) and not (config.privacy.is_private and config.audit.canaries):
        raise UserError(
            f"nothing is left to attack: {f'{reason}, so no head is retrained' if reason else 'audit.models=0'}, and "
            f"{'audit.canaries=0' if config.privacy.is_private else 'canaries need a private run'}; audit a run of "
            "recipe=dp_gd with audit.models=1000, or a private run with audit.canaries=4000"
        )


def run(config: Config, inputs: Mapping[str, Artifact], output: Output) -> StageResult:
    device = devices.prepare(config.runtime)
    patches = training_patches(inputs)
    units, public = training_units(patches, config)
    plan = make_plan(config, units=len(units), cache=output.cache)
    task = Task(config, patches, units, public, plan, _randomness(config, output, "unused"), device)
    records: dict[Unit, Records] = {unit: Records.of(task, unit) for unit in UNITS}
    found = _done(_blocks(task, inputs, records, output), output, seconds=config.runtime.checkpoint_seconds)

    audit, delta, own = config.audit, config.privacy.delta, config.privacy.unit
    most = int(records["patient"].images.max())
    event = _trained(inputs["classifier"])
    claims = {unit: Claim(event, unit, most, output.cache) for unit in UNITS}
    attacks: dict[Unit, Attack] = {
        unit: attack for unit in UNITS if (attack := _attack(found, unit)) is not None
    }
    canaries = _canaries(found, task, inputs["classifier"])
    gaussian = plan.mechanism is not None and plan.mechanism.is_full_batch
    each = audit.alpha / shares(attacks, canaries, gaussian=gaussian)
    bounds = all_bounds(
        attacks, canaries, own=own, each=each, alpha=audit.alpha, delta=delta, gaussian=gaussian
    )
    promised = {unit: claim.record(delta) for unit, claim in claims.items()}
    checked = checks(canaries, each=each)
    metrics = {
        "unit": own,
        "noise_fraction": audit.noise_fraction,
        "alpha": audit.alpha,
        "alpha_of_each": each,
        "claims": promised,
        "bounds": bounds,
        "checks": checked,
        "contradicted": {unit: contradicted(promised[unit], bounds[unit], checked) for unit in UNITS},
        "retrains": {
            u: retrain_record(a, records[u], seed=audit.seed, each=each) for u, a in attacks.items()
        },
        "canaries": None,
        "no_retrains": None if attacks else config.no_retrains or "audit.models=0",
    }
    if canaries is not None:
        assert plan.mechanism is not None
        metrics["canaries"] = canary_record(canaries, claims[own], plan.mechanism, each=each, delta=delta)
    if attacks:
        attack_table(attacks, records).to_csv(output.folder / ATTACK, index=False, float_format="%.6g")
    return StageResult(
        metrics=metrics,
        summary=_summary(metrics),
        manifest={"device": devices.describe(device)},
        most_images=most,
    )


def _trained(classifier: Artifact) -> Event | None:
    """The event of training on the patients whose membership is attacked, None where nothing limits it."""
    events = events_of([classifier.manifest["privacy"]["ledger"]])
    own = next(e for e in events if e.stage == "train_classifier" and e.cohort == "training")
    return own if own.mechanism is not None else None


# --- the models ---------------------------------------------------------------------------------------------------


def _randomness(config: Config, output: Output, name: str) -> Randomness:
    """Of the audit alone: noise that it shared with the audited run could be subtracted from it."""
    secure = config.privacy.is_private and config.privacy.randomness == "secure"
    return Randomness(secure=secure, seed=config.audit.seed, run=f"{output.identity} {name}")


def _blocks(
    task: Task, inputs: Mapping[str, Artifact], records: Mapping[Unit, Records], output: Output
) -> dict[str, Callable[[], Tensors]]:
    """Everything that is trained, in parts of seconds to a minute, by name."""
    audit, blocks = task.config.audit, {}
    if task.config.no_retrains is None:
        for unit in UNITS:
            for first in range(0, audit.models, BLOCK):
                name, models = f"{unit} {first}", min(BLOCK, audit.models - first)
                randomness = _randomness(task.config, output, name)
                blocks[name] = _retrains(task, inputs, records[unit], models, randomness)
    if task.plan.mechanism is not None and audit.canaries:
        capacity = most_canaries(task, inputs)
        runs = math.ceil(audit.canaries / capacity)
        if runs > MOST_RUNS:
            raise UserError(
                f"audit.canaries={audit.canaries} would take {runs} runs of training, since {capacity} fit into one; "
                f"set audit.canaries={MOST_RUNS * capacity} or fewer"
            )
        for number in range(runs):
            name, count = f"canaries {number}", math.ceil(audit.canaries / runs)
            blocks[name] = _canary_run(task, inputs, count, _randomness(task.config, output, name))
        of_pair = _randomness(task.config, output, "pair")
        blocks["pair"] = lambda: pair(task, inputs, of_pair)
    return blocks


def _retrains(
    task: Task, inputs: Mapping[str, Artifact], records: Records, models: int, randomness: Randomness
) -> Callable[[], Tensors]:
    plan = task.plan
    if plan.mechanism is not None:
        noise = task.config.audit.noise_fraction * plan.mechanism.noise_multiplier
        plan = replace(plan, mechanism=replace(plan.mechanism, noise_multiplier=noise))
    attacked = replace(task, plan=plan, device=torch.device("cpu"))
    return lambda: retrained(
        attacked, inputs, records, models=models, generator=randomness.generator("models")
    )


def _canary_run(
    task: Task, inputs: Mapping[str, Artifact], count: int, randomness: Randomness
) -> Callable[[], Tensors]:
    fraction = task.config.audit.noise_fraction
    return lambda: with_canaries(task, inputs, randomness, count=count, noise_fraction=fraction)


def _done(
    blocks: Mapping[str, Callable[[], Tensors]], output: Output, *, seconds: float
) -> dict[str, Tensors]:
    """Every block's result; those of an earlier attempt come from last.pt."""
    last = output.folder / "last.pt"
    found: dict[str, Tensors] = checkpoint.load(last, torch.device("cpu"))["audit"] if last.is_file() else {}
    left = [name for name in blocks if name not in found]
    pace = checkpoint.Pace(seconds)
    for name in track(left, "auditing", total=len(blocks), done=len(found)):
        found[name] = blocks[name]()
        if pace.is_due():
            with pace.saving():
                checkpoint.save({"audit": found, "device": "cpu"}, last)
    return found


def _attack(found: Mapping[str, Tensors], unit: Unit) -> Attack | None:
    parts = [tensors for name, tensors in found.items() if name.startswith(f"{unit} ")]
    if not parts:
        return None
    margins, members = (
        torch.cat([part[key] for part in parts], dim=1).numpy() for key in ("margins", "members")
    )
    return Attack(margins.astype(np.float64), members)


def _canaries(found: Mapping[str, Tensors], task: Task, classifier: Artifact) -> Canaried | None:
    parts = [tensors for name, tensors in found.items() if name.startswith("canaries ")]
    if not parts:
        return None
    scores, members = (torch.cat([part[key] for part in parts]).numpy() for key in ("scores", "members"))
    squares, draws = torch.stack([part["noise"] for part in parts]).sum(dim=0).tolist()
    smallest = torch.stack([part["p_values"] for part in parts]).min(dim=0).values * len(parts)
    p_values = dict(zip(TESTS, smallest.tolist(), strict=True))
    p_values["fresh"] = fresh_noise([part["first"] for part in parts])
    longest, defect, exact = torch.stack([part["dependence"] for part in parts]).max(dim=0).values.tolist()
    own = Dependence(longest, None if math.isnan(defect) else defect, exact=bool(exact))
    return Canaried(
        scores[members], scores[~members], squares, int(draws), len(parts),
        p_values, own,
        int(found["pair"]["differing"]), released_noise(task, classifier),
    )  # fmt: skip


# --- words --------------------------------------------------------------------------------------------------------


def _summary(metrics: Mapping[str, Any]) -> str:
    fraction = metrics["noise_fraction"]
    lines = [f"control: trained with {fraction:g} of the claimed noise"] if fraction != 1 else []
    for unit in UNITS:
        claim, bound = metrics["claims"][unit], metrics["bounds"][unit]
        if bound:
            stated = (
                "not private"
                if claim is None
                else f"claim {rounded_up(claim['epsilon'], digits=4)} (mu {claim['mu']:.3g})"
            )
            lines.append(
                f"per {unit}: {stated}, lower bound {bound['epsilon']:.3g} (mu {bound['mu']:.3g}; {bound['by']}; "
                f"ceiling "
                f"{bound['ceiling']:.3g}){_verdict(claim, bound, metrics['contradicted'][unit])}"
            )
    for unit, found in metrics["retrains"].items():
        auc, rate = found["auc"], found["tpr_at_1_percent_fpr"]
        lines.append(
            f"{found['models']} heads, {found['records']} {unit}s: AUC {_interval(auc)}, true positives at 1 % false "
            f"ones {_interval(rate)}"
        )
    if metrics["canaries"]:
        found, once = metrics["canaries"], metrics["canaries"]["one_run"]
        mu = found.get("mu")
        measured = f"mu claimed {mu['claimed']:.4g}, measured {mu['measured']:.4g}; " if mu else ""
        lines.append(
            f"{found['members'] + found['others']} canaries: {measured}noise over claim "
            f"{_interval(found['noise_over_claim'])}, longest unit over C {found['longest_unit_over_clip']:.4f}; "
            f"one-run bound {once['epsilon']:.3g} at delta {once['delta']:.1e} (claim {once['claim']:.4g}, ceiling "
            f"{once['ceiling']:.3g})"
        )
        failed = [check["fault"] for check in metrics["checks"].values() if not check["passed"]]
        passed = len(metrics["checks"]) - len(failed)
        lines.append("; ".join([f"{passed} of {len(metrics['checks'])} checks passed", *failed]))
    if metrics["no_retrains"]:
        lines.append(f"no heads were retrained: {metrics['no_retrains']}")
    return "\n".join(lines)


def _verdict(claim: Mapping[str, Any] | None, bound: Mapping[str, Any], contradicted: bool) -> str:
    if claim is None:
        return ""
    if contradicted:
        return ": THE CLAIM IS CONTRADICTED"
    return ", below the claim" + (
        "" if bound["ceiling"] > claim["epsilon"] else ", as any attack of this size is"
    )


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"
