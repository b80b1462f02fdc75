"""Faults that would void the guarantee, each as one change of the source, and the tests that should catch it."""

from dataclasses import dataclass

GRADIENTS, SENSITIVITY = "tests/privacy/test_gradients.py", "tests/privacy/test_sensitivity.py"
OPTIMIZER, SAMPLING = "tests/privacy/test_optimizer.py", "tests/privacy/test_sampling.py"
TRAINING, GUARDS = "tests/training/test_classifier.py", "tests/privacy/test_guards.py"
NETWORK = "tests/privacy/test_network_gradients.py"
LEDGER, UNITS = "tests/privacy/test_ledger.py", "tests/privacy/test_units.py"


@dataclass(frozen=True)
class Fault:
    """In `module` (below mammo_dp), `old`, which stands there once, becomes `new`."""

    name: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "half the noise", "privacy.optimizer",
        "noise_multiplier=mechanism.noise_multiplier,", "noise_multiplier=mechanism.noise_multiplier / 2,",
        (OPTIMIZER, "tests/privacy/test_canary.py"),
    ),
    Fault(
        "clipping off", "privacy.gradients",
        "if max_grad_norm is not None:", "if max_grad_norm is None:",
        (GRADIENTS, SENSITIVITY),
    ),
    Fault(
        "clipping per batch", "privacy.clipping",
        "(max_norm / norms.clamp(min=1e-12)).clamp(max=1.0)",
        "(max_norm / norms.norm().clamp(min=1e-12)).clamp(max=1.0).expand_as(norms)",
        (GRADIENTS, SENSITIVITY, NETWORK),
    ),
    Fault(
        "noise skipped on an empty batch", "training.classifier",
        "        self.optimizer.step()\n", "        (self.optimizer if len(chosen) else self.inner).step()\n",
        (f"{TRAINING}::test_an_empty_batch_is_a_noisy_step",),
    ),
    Fault(
        "window rows taken as samples", "privacy.gradients",
        "    units, rows, _ = features.shape\n",
        "    features, labels = features.flatten(0, 1)[:, None], labels.flatten()[:, None]\n"
        "    units, rows, _ = features.shape\n",
        (GRADIENTS, SENSITIVITY),
    ),
    Fault(
        "guard of the batch dimension off", "privacy.gradients",
        "if tensor.shape[0] != units:", "if False:",
        (GUARDS,),
    ),
    Fault(
        "the true size instead of the public N", "privacy.planning",
        "first_eligible_step=first, public_count=config.public_count", "first_eligible_step=first, public_count=units",
        (f"{TRAINING}::test_plan_takes_nothing_from_private_sizes",),
    ),
    Fault(
        "a fixed batch claimed as Poisson", "privacy.sampling",
        "return torch.tensor(next(iter(sampler)), dtype=torch.int64)",
        "return torch.randperm(self.units, generator=self.generator)[: round(self.units * self.sample_rate)]",
        (SAMPLING, UNITS),
    ),
    Fault(
        "clipping per image at unit=patient", "training.units",
        "return Units.grouped(positions, patients)", "return Units.of_each(positions)",
        ("tests/stages/test_train_classifier.py",),
    ),
    Fault(
        "patients taken apart by Poisson sampling", "privacy.units",
        "members.setdefault(key, [])", "members.setdefault(f'{key}{position}', [])",
        (UNITS,),
    ),
    Fault(
        "one step more than is accounted", "privacy.planning",
        "        mechanism.steps, per_epoch,", "        mechanism.steps + 1, per_epoch,",
        (f"{TRAINING}::test_every_accounted_step_is_a_noisy_step",),
    ),
    Fault(
        "features cached in train mode", "models.classifier",
        "body = body.eval()", "body = body.train()",
        (GUARDS,),
    ),
    Fault(
        "replacement accounted as removal", "privacy.events",
        '"replace": 2.0', '"replace": 1.0',
        (SENSITIVITY,),
    ),
    Fault(
        "32 bits of seed", "privacy.sampling",
        'if device.type != "cpu":', "if True:",
        (SAMPLING,),
    ),
    Fault(
        "random state of secure noise kept", "privacy.sampling",
        "return {} if self.secure else {name:", "return {name:",
        (f"{TRAINING}::test_secure_runs_save_no_random_state_and_go_on_with_fresh_noise",),
    ),
    Fault(
        "validation patients forgotten", "privacy.ledger",
        'if e.effect == "shapes_model"}', 'if e.effect == "shapes_model" and e.cohort == "training"}',
        (LEDGER,),
    ),
    Fault(
        "several seeds counted once", "privacy.ledger",
        "mu = math.hypot(*(", "mu = max(*(0.0,), *(",
        (LEDGER,),
    ),
    Fault(
        "a patient's images counted as one", "privacy.loss_distribution",
        "gaussian_epsilon(images * mechanism.mu", "gaussian_epsilon(mechanism.mu",
        ("tests/privacy/test_loss_distribution.py::test_group_of_a_full_batch_is_k_mu",),
    ),
    Fault(
        "scale and shift left out of the norm", "privacy.gradients",
        "return self.scale.square().sum(dim=1) + self.shift.square().sum(dim=1)", "return 0 * self.shift.sum(dim=1)",
        (GRADIENTS,),
    ),
    Fault(
        "no clipping of a whole network's gradients", "privacy.network_gradients",
        "clip_factors(norms, max_grad_norm) / counts", "torch.ones_like(norms) / counts",
        (NETWORK,),
    ),
    Fault(
        "whole networks go without the check of units", "privacy.network_gradients",
        "check_units(len(targets), gradients)", "pass",
        (NETWORK,),
    ),
    Fault(
        "sums to solve from without clipping", "training.solved",
        "factors = clip_factors(norms, self.recipe.max_grad_norm)", "factors = torch.ones_like(norms)",
        (SENSITIVITY,),
    ),
    Fault(
        "a solver that forgets its flips are one unit", "training.solved",
        "norms = inner.sum(dim=(1, 2)).clamp(min=0).sqrt() / rows",
        "norms = inner.diagonal(dim1=1, dim2=2).sum(dim=1).clamp(min=0).sqrt() / rows",
        (SENSITIVITY,),
    ),
    Fault(
        "a discriminator without noise", "training.gan",
        "self.private.step()", "self._add_generated(); self.discriminator_adam.step()",
        ("tests/training/test_gan.py::test_an_empty_batch_is_a_noisy_step",),
    ),
    Fault(
        "the bundle names the run", "privacy.ledger",
        'replace(event, artifact="")', "replace(event)",
        (LEDGER,),
    ),
)  # fmt: skip
