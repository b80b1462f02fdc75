"""Faults that would void the guarantee, each as one change of the source, and a test that should catch it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """In `module` (below mammo_dp), `old`, which stands there once, becomes `new`; `test` (below tests/) must fail."""

    name: str
    module: str
    old: str
    new: str
    test: str


FAULTS = (
    # --- the mechanism ---
    Fault(
        "half the noise", "privacy.mechanism",
        "        scale = noise_scale(noise_multiplier, self.clip)",
        "        scale = noise_scale(noise_multiplier / 2, self.clip)",
        "privacy/test_mechanism.py::test_noise_has_the_claimed_scale",
    ),
    Fault(
        "the smoothing left out", "privacy.mechanism",
        "math.hypot(noise_multiplier * clip / grid_step(clip), SMOOTHING)",
        "noise_multiplier * clip / grid_step(clip) * (1 - 1e-13)",
        "privacy/test_mechanism.py::test_noise_covers_the_continuous_noise_and_the_smoothing",
    ),
    Fault(
        "a grid that depends on more than powers of two", "privacy.mechanism",
        "2.0 ** (math.ceil(math.log2(clip)) - GRID_BITS)", "clip * 2.0**-GRID_BITS * 1.001",
        "privacy/test_mechanism.py::test_the_grid_is_a_power_of_two_that_follows_from_c",
    ),
    Fault(
        "rounding after the sum", "privacy.mechanism",
        "return RoundedDense(scaled.round_(), ", "return RoundedDense(scaled, ",
        "privacy/test_mechanism.py::test_short_contributions_are_rounded_and_long_ones_clipped",
    ),
    Fault(
        "products off the grid", "privacy.mechanism",
        "return RoundedOuter(scaled.round_(), self.inputs)", "return RoundedOuter(scaled, self.inputs)",
        "privacy/test_mechanism.py::test_sums_are_exact_and_do_not_depend_on_the_order[127]",
    ),
    Fault(
        "float32 sums and noise", "privacy.mechanism",
        "[noise.added(block, scale) for block in self.blocks]",
        "[(b.float() + noise.added(torch.zeros_like(b), scale).float()).long() for b in self.blocks]",
        "privacy/test_low_bits.py::test_no_world_without_a_patient_is_impossible[dp_gd-6.0-default]",
    ),
    Fault(
        "clipping off", "privacy.mechanism",
        "SHORTENED * clip / norms.clamp(min=1e-300)", "1e9 * clip / norms.clamp(min=1e-300)",
        "privacy/test_mechanism.py::test_short_contributions_are_rounded_and_long_ones_clipped",
    ),
    Fault(
        "the last guard off", "privacy.mechanism",
        "kept = finite & (squared <= 1)", "kept = finite",
        "privacy/test_mechanism.py::test_the_last_guard_keeps_c_and_drops_what_is_longer",
    ),
    Fault(
        "clipping per batch", "privacy.mechanism",
        "    return torch.nan_to_num(factors.clamp(max=1.0), nan=0.0) * norms.isfinite()",
        "    return torch.full_like(norms, float(torch.nan_to_num(factors).clamp(max=1.0).max()))",
        "privacy/test_mechanism.py::test_a_unit_that_is_not_finite_counts_as_null[inf]",
    ),
    Fault(
        "the norm of a product without its inputs' grid", "privacy.mechanism",
        "return _squared(self.gradients, self.inputs.products) * 4.0**INPUT_BITS",
        "return _squared(self.gradients, self.inputs.products) * 2.0**INPUT_BITS",
        "privacy/test_mechanism.py::test_products_are_sums_of_outer_products[0.01-1]",
    ),
    Fault(
        "noise reused", "privacy.noise",
        "    half = (count + 1) // 2", "    generator.manual_seed(0)\n    half = (count + 1) // 2",
        "privacy/test_noise.py::test_seeded_noise_repeats_and_moves_on",
    ),
    Fault(
        "the Mersenne Twister under secure noise", "privacy.sampling",
        "return SecureNoise(coordinates) if self.secure else SeededNoise(generator)", "return SeededNoise(generator)",
        "privacy/test_noise.py::test_secure_noise_asks_no_seeded_generator",
    ),
    Fault(
        "the Mersenne Twister under secure batches", "privacy.sampling",
        "SecurePoissonBatches(units, rate) if secure else PoissonBatches", "PoissonBatches",
        "privacy/test_sampling.py::test_secure_batches_come_from_the_operating_system",
    ),
    Fault(
        "zero twice as likely", "privacy.noise",
        "kept = ~(negative & (size == 0))", "kept = size >= 0",
        "privacy/test_noise.py::test_small_scales_have_the_exact_probabilities[0.4-vectorised]",
    ),
    Fault(
        "a proposal that is always accepted", "privacy.noise",
        "    below = uniform < probability", "    below = uniform < np.sqrt(probability)",
        "privacy/test_noise.py::test_small_scales_have_the_exact_probabilities[0.4-vectorised]",
    ),
    Fault(
        "a rate rounded up to one", "privacy.sampling",
        "min(int(self.sample_rate * 2**64), 2**64 - 1)", "int(self.sample_rate * 1.3 * 2**64)",
        "privacy/test_sampling.py::test_secure_batches_come_from_the_operating_system",
    ),
    Fault(
        "individual accounts rounded down", "privacy.individual",
        "(squared.sqrt() * LEVELS).ceil()", "(squared.sqrt() * LEVELS / 2).ceil()",
        "privacy/test_individual.py::test_poisson_sampling_is_bounded_by_steps_that_count_their_own_length",
    ),
    Fault(
        "undrawn steps forgotten in individual accounts", "privacy.individual",
        "(m.steps - draws.sum(axis=1))[:, None] * table[-1]", "0 * table[-1]",
        "privacy/test_individual.py::test_poisson_sampling_is_bounded_by_steps_that_count_their_own_length",
    ),
    Fault(
        "features centred on the batch", "privacy.gradients",
        "return (self.values @ on_grid) * self.scales",
        "return ((self.values - self.values.mean(0)) @ on_grid) * self.scales",
        "privacy/test_gradients.py::test_the_rows_of_a_linear_head_give_the_same_contributions",
    ),
    # --- what is summed ---
    Fault(
        "noise skipped on an empty batch", "training.trainer",
        "        self.optimizer.step(total)\n", "        len(chosen) and self.optimizer.step(total)\n",
        "training/test_head_trainer.py::test_an_empty_batch_is_a_noisy_step",
    ),
    Fault(
        "window rows taken as samples", "privacy.gradients",
        "    units, rows, _ = features.shape\n",
        "    features, labels = features.flatten(0, 1)[:, None], labels.flatten()[:, None]\n"
        "    units, rows, _ = features.shape\n",
        "privacy/test_gradients.py::test_closed_form_equals_autograd[None-0.0-2-linear]",
    ),
    Fault(
        "guard of the batch dimension off", "privacy.gradients",
        "if tensor.shape[0] != units:", "if False:",
        "privacy/test_guards.py::test_windows_of_swin_are_not_images",
    ),
    Fault(
        "the true size instead of the public N", "training.plans",
        "first_eligible_step=first, public_count=config.public_count", "first_eligible_step=first, public_count=units",
        "training/test_head_trainer.py::test_plan_takes_nothing_from_private_sizes",
    ),
    Fault(
        "a fixed batch claimed as Poisson", "privacy.sampling",
        "return torch.tensor(next(iter(sampler)), dtype=torch.int64)",
        "return torch.randperm(self.units, generator=self.generator)[: round(self.units * self.sample_rate)]",
        "privacy/test_sampling.py::test_poisson_inclusion",
    ),
    Fault(
        "clipping per image at unit=patient", "training.units",
        "return Units.grouped(positions, patients)", "return Units.of_each(positions)",
        "stages/test_train_classifier.py::test_patients_are_units_within_a_source",
    ),
    Fault(
        "patients taken apart by Poisson sampling", "privacy.units",
        "members.setdefault(key, [])", "members.setdefault(f'{key}{position}', [])",
        "privacy/test_units.py::test_patients_by_number_of_images",
    ),
    Fault(
        "one step more than is accounted", "training.plans",
        "        mechanism.steps, per_epoch,", "        mechanism.steps + 1, per_epoch,",
        "training/test_head_trainer.py::test_every_accounted_step_is_a_noisy_step",
    ),
    Fault(
        "features cached in train mode", "models.backbone",
        "backbone = backbone.eval()", "backbone = backbone.train()",
        "privacy/test_guards.py::test_the_backbone_that_stages_use_gives_an_image_the_same_features_in_any_company",
    ),
    Fault(
        "replacement accounted as removal", "privacy.events",
        '"replace": 2.0', '"replace": 1.0',
        "privacy/test_sensitivity.py::test_one_unit_moves_the_sum_by_at_most_the_stated_sensitivity[replace-image]",
    ),
    Fault(
        "32 bits of seed", "privacy.sampling",
        'if device.type != "cpu":', "if True:",
        "privacy/test_sampling.py::test_a_generator_is_more_than_32_bits_of_seed",
    ),
    Fault(
        "random state of secure noise kept", "privacy.sampling",
        "return {} if self.secure else {name:", "return {name:",
        "training/test_head_trainer.py::test_secure_runs_save_no_random_state_and_go_on_with_fresh_noise",
    ),
    Fault(
        "validation patients forgotten", "privacy.ledger",
        '(e.study, e.cohort) for e in self.events if',
        '(e.study, e.cohort) for e in self.events if e.cohort == "training" and',
        "privacy/test_ledger.py::test_validation_and_training_stand_apart",
    ),
    Fault(
        "several seeds counted once", "privacy.ledger",
        "mu = math.hypot(*(", "mu = max(*(0.0,), *(",
        "privacy/test_ledger.py::test_one_replacing_event_makes_all_count_for_replacement",
    ),
    Fault(
        "a patient's images counted as one", "privacy.loss_distribution",
        "gaussian_epsilon(images * mechanism.mu", "gaussian_epsilon(mechanism.mu",
        "privacy/test_loss_distribution.py::test_group_of_a_full_batch_is_k_mu",
    ),
    Fault(
        "whole networks go without the check of units", "privacy.network_gradients",
        "check_units(len(targets), gradients)", "pass",
        "privacy/test_network_gradients.py::test_a_wrong_batch_dimension_is_caught",
    ),
    Fault(
        "a discriminator without noise", "training.gan_trainer",
        "self.private_step(chosen)  # noise and scale, then _add_generated, then Adam",
        "self._add_generated(); self.discriminator_adam.step()",
        "training/test_gan_trainer.py::test_an_empty_batch_is_a_noisy_step",
    ),
    Fault(
        "the bundle names the run", "privacy.ledger",
        'replace(event, artifact="")', "replace(event)",
        "privacy/test_ledger.py::test_for_release_drops_what_the_owner_alone_may_see",
    ),
)  # fmt: skip
