"""Faults that would void the guarantee, each as one change of the source, and the tests that should catch it."""

from dataclasses import dataclass

GRADIENTS, SENSITIVITY = "tests/privacy/test_gradients.py", "tests/privacy/test_sensitivity.py"
MECHANISM, SAMPLING = "tests/privacy/test_mechanism.py", "tests/privacy/test_sampling.py"
NOISE, LOW_BITS = (
    "tests/privacy/test_noise.py",
    "tests/privacy/test_low_bits.py::test_no_world_without_a_patient_is_impossible[dp_gd-6.0-default]",
)
INDIVIDUAL = "tests/privacy/test_individual.py"
TRAINING, GUARDS = "tests/training/test_head_trainer.py", "tests/privacy/test_guards.py"
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
    # --- the mechanism ---
    Fault(
        "half the noise", "privacy.mechanism",
        "        scale = noise_scale(noise_multiplier, self.clip)",
        "        scale = noise_scale(noise_multiplier / 2, self.clip)",
        (MECHANISM, "tests/privacy/test_canary.py"),
    ),
    Fault(
        "the smoothing left out", "privacy.mechanism",
        "math.hypot(noise_multiplier * clip / grid_step(clip), SMOOTHING)",
        "noise_multiplier * clip / grid_step(clip) * (1 - 1e-13)",
        (MECHANISM,),
    ),
    Fault(
        "a grid that depends on more than powers of two", "privacy.mechanism",
        "2.0 ** (math.ceil(math.log2(clip)) - GRID_BITS)", "clip * 2.0**-GRID_BITS * 1.001",
        (MECHANISM,),
    ),
    Fault(
        "rounding after the sum", "privacy.mechanism",
        "return RoundedDense(scaled.round_(), ", "return RoundedDense(scaled, ",
        (MECHANISM,),
    ),
    Fault(
        "products off the grid", "privacy.mechanism",
        "return RoundedOuter(scaled.round_(), self.inputs)", "return RoundedOuter(scaled, self.inputs)",
        (MECHANISM,),
    ),
    Fault(
        "float32 sums and noise", "privacy.mechanism",
        "[noise.added(block, scale) for block in self.blocks]",
        "[(b.float() + noise.added(torch.zeros_like(b), scale).float()).long() for b in self.blocks]",
        (LOW_BITS,),
    ),
    Fault(
        "clipping off", "privacy.mechanism",
        "SHORTENED * clip / norms.clamp(min=1e-300)", "1e9 * clip / norms.clamp(min=1e-300)",
        (MECHANISM, SENSITIVITY),
    ),
    Fault(
        "the last guard off", "privacy.mechanism",
        "kept = finite & (squared <= 1)", "kept = finite",
        (MECHANISM,),
    ),
    Fault(
        "clipping per batch", "privacy.mechanism",
        "    return torch.nan_to_num(factors.clamp(max=1.0), nan=0.0) * norms.isfinite()",
        "    return torch.full_like(norms, float(torch.nan_to_num(factors).clamp(max=1.0).max()))",
        (MECHANISM, SENSITIVITY),
    ),
    Fault(
        "the norm of a product without its inputs' grid", "privacy.mechanism",
        "return _squared(self.gradients, self.inputs.products) * 4.0**INPUT_BITS",
        "return _squared(self.gradients, self.inputs.products) * 2.0**INPUT_BITS",
        (MECHANISM,),
    ),
    Fault(
        "noise reused", "privacy.noise",
        "    half = (count + 1) // 2", "    generator.manual_seed(0)\n    half = (count + 1) // 2",
        (NOISE, MECHANISM),
    ),
    Fault(
        "the Mersenne Twister under secure noise", "privacy.sampling",
        "return SecureNoise(coordinates) if self.secure else SeededNoise(generator)", "return SeededNoise(generator)",
        (NOISE, f"{TRAINING}::test_secure_runs_save_no_random_state_and_go_on_with_fresh_noise"),
    ),
    Fault(
        "the Mersenne Twister under secure batches", "privacy.sampling",
        "SecurePoissonBatches(units, rate) if secure else PoissonBatches", "PoissonBatches",
        (SAMPLING, f"{TRAINING}::test_secure_runs_save_no_random_state_and_go_on_with_fresh_noise"),
    ),
    Fault(
        "zero twice as likely", "privacy.noise",
        "kept = ~(negative & (size == 0))", "kept = size >= 0",
        (NOISE,),
    ),
    Fault(
        "a proposal that is always accepted", "privacy.noise",
        "    below = uniform < probability", "    below = uniform < np.sqrt(probability)",
        (NOISE,),
    ),
    Fault(
        "a rate rounded up to one", "privacy.sampling",
        "min(int(self.sample_rate * 2**64), 2**64 - 1)", "int(self.sample_rate * 1.3 * 2**64)",
        (SAMPLING,),
    ),
    Fault(
        "individual accounts rounded down", "privacy.individual",
        "(squared.sqrt() * LEVELS).ceil()", "(squared.sqrt() * LEVELS / 2).ceil()",
        (INDIVIDUAL,),
    ),
    Fault(
        "undrawn steps forgotten in individual accounts", "privacy.individual",
        "(m.steps - draws.sum(axis=1))[:, None] * table[-1]", "0 * table[-1]",
        (INDIVIDUAL,),
    ),
    Fault(
        "features centred on the batch", "privacy.gradients",
        "return (self.values @ on_grid) * self.scales",
        "return ((self.values - self.values.mean(0)) @ on_grid) * self.scales",
        (GRADIENTS,),
    ),
    # --- what is summed ---
    Fault(
        "noise skipped on an empty batch", "training.trainer",
        "        self.optimizer.step(total)\n", "        len(chosen) and self.optimizer.step(total)\n",
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
        "the true size instead of the public N", "training.plans",
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
        "one step more than is accounted", "training.plans",
        "        mechanism.steps, per_epoch,", "        mechanism.steps + 1, per_epoch,",
        (f"{TRAINING}::test_every_accounted_step_is_a_noisy_step",),
    ),
    Fault(
        "features cached in train mode", "models.backbone",
        "backbone = backbone.eval()", "backbone = backbone.train()",
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
        '(e.study, e.cohort) for e in self.events if',
        '(e.study, e.cohort) for e in self.events if e.cohort == "training" and',
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
        "whole networks go without the check of units", "privacy.network_gradients",
        "check_units(len(targets), gradients)", "pass",
        (NETWORK,),
    ),
    Fault(
        "a discriminator without noise", "training.gan_trainer",
        "self.private_step(chosen)  # noise and scale, then _add_generated, then Adam",
        "self._add_generated(); self.discriminator_adam.step()",
        ("tests/training/test_gan_trainer.py::test_an_empty_batch_is_a_noisy_step",),
    ),
    Fault(
        "the bundle names the run", "privacy.ledger",
        'replace(event, artifact="")', "replace(event)",
        (LEDGER,),
    ),
)  # fmt: skip
