"""The loop: resume, selection, the empty batch, and features cached against features computed from images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mammo_dp.data.patch_set import PatchSet
from mammo_dp.engine.artifacts import Output
from mammo_dp.errors import UserError
from mammo_dp.files import Cache
from mammo_dp.models.backbone import build_backbone, feature_size
from mammo_dp.models.features import all_flips, encoder
from mammo_dp.models.head import build_head
from mammo_dp.privacy.accounting import epsilon
from mammo_dp.privacy.sampling import Randomness, SecurePoissonBatches
from mammo_dp.privacy.units import Units
from mammo_dp.stages import node_of
from mammo_dp.training.features import CachedFeatures, ImageFeatures
from mammo_dp.training.head_trainer import HeadTrainer, predict
from mammo_dp.training.plans import Plan, make_plan
from mammo_dp.training.trainer import train
from tests.conftest import AS_IT_IS, UNIT_LENGTH, calibrations, config_of


def toy_problem(n: int = 60, d: int = 8):
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (n,), generator=g)
    table = torch.randn(n, 4, d, generator=g) + labels[:, None, None] * 0.8
    return CachedFeatures(table, prepare=AS_IT_IS), np.arange(n), labels


def trainer_of(
    tmp_path, *overrides: str, seed: int = 0, public: Units | None = None, share: float = 1.0
) -> HeadTrainer:
    config = config_of("recipe=paper", "privacy.public_count=60", "privacy.delta=0.001", "privacy.accountant=rdp",
                       "recipe.batch_size=20", "recipe.epochs=5", *overrides)  # fmt: skip
    source, positions, labels = toy_problem()
    plan = replace(make_plan(config, units=len(positions), cache=calibrations()), private_share=share)
    return HeadTrainer(
        build_head(config.recipe, features=8, seed=seed),
        source,
        Units.of_each(positions),
        labels,
        plan=plan,
        recipe=config.recipe,
        randomness=Randomness(secure=config.privacy.randomness == "secure", seed=seed, run="run"),
        device=torch.device("cpu"),
        public=public,
    )


def weights(trainer: HeadTrainer) -> torch.Tensor:
    return torch.cat([v.flatten() for v in trainer.head.state_dict().values()])


@pytest.mark.parametrize("epsilon", ["2", "inf"])
@pytest.mark.parametrize("recipe", ["paper", "dp_gd"])
def test_resume_at_any_step_is_bit_identical(tmp_path, epsilon, recipe):
    words = (
        f"privacy.epsilon={epsilon}",
        f"recipe={recipe}",
        "recipe.batch_size=20",
        "recipe.select=average",
    )
    whole = trainer_of(tmp_path, *words)
    for _ in range(whole.plan.steps):
        whole.step()
    for stop in (1, 7):
        first = trainer_of(tmp_path, *words)
        for _ in range(stop):
            first.step()
        torch.save(first.state_dict(), tmp_path / "last.pt")
        second = trainer_of(tmp_path, *words)
        second.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
        while second.step_number < second.plan.steps:
            second.step()
        assert torch.equal(weights(second), weights(whole))
        assert all(
            torch.equal(a, whole.selection.selected()[0][k])
            for k, a in second.selection.selected()[0].items()
        )


def test_an_empty_batch_is_a_noisy_step(tmp_path):
    trainer = trainer_of(tmp_path, "privacy.epsilon=2")
    trainer.batches.next = lambda: torch.empty(0, dtype=torch.int64)  # type: ignore[method-assign]
    before = weights(trainer).clone()
    trainer.step()
    assert (weights(trainer) != before).float().mean() > 0.9


def test_plan_takes_nothing_from_private_sizes(tmp_path):
    config = config_of("recipe=paper", "privacy.public_count=1104", "privacy.accountant=rdp")
    plans = [make_plan(config, units=n, cache=calibrations()) for n in (1103, 7, 4000)]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0].steps == 2700
    assert plans[0].mechanism is not None
    assert plans[0].mechanism.sample_rate == pytest.approx(1 / 9)
    open_plan = make_plan(config_of("recipe=paper", "privacy.epsilon=inf"), units=256, cache=calibrations())
    assert (open_plan.steps, open_plan.mechanism) == (600, None)


def test_average_is_the_mean_of_the_second_half(tmp_path):
    trainer = trainer_of(
        tmp_path, "recipe=dp_gd", "privacy.epsilon=inf", "recipe.epochs=6", "recipe.batch_size=null"
    )
    seen = []
    for _ in range(6):
        trainer.step()
        seen.append(trainer.head.state_dict()["0.weight"].clone())
    torch.testing.assert_close(trainer.selection.selected()[0]["0.weight"], torch.stack(seen[3:]).mean(0))


def test_best_val_takes_the_highest_auprc_and_breaks_ties_by_loss(tmp_path):
    trainer = trainer_of(tmp_path)
    labels = np.array([0, 0, 1, 1])
    offers = [
        (np.array([0.9, 0.2, 0.6, 0.7]), "worse ranking"),
        (np.array([0.4, 0.4, 0.6, 0.6]), "perfect, unsure"),
        (np.array([0.1, 0.1, 0.9, 0.9]), "perfect, sure"),
        (np.array([0.3, 0.3, 0.6, 0.6]), "perfect, less sure"),
    ]
    for number, (p_malignant, _) in enumerate(offers):
        trainer.selection.after_step(number)
        trainer.selection.consider(labels, p_malignant)
    assert trainer.selection.best_step == 2


def test_only_eligible_epochs_are_validated(tmp_path):
    trainer = trainer_of(tmp_path, "privacy.epsilon=2", "recipe.epochs=20")
    assert 0 < trainer.plan.first_eligible_step < trainer.plan.steps
    labels = np.array([0, 1])
    output = Output(tmp_path, Cache(tmp_path))
    calls = []
    train(trainer, output=output, checkpoint_seconds=99,
          after_epoch=trainer.best_val(
              lambda: calls.append(trainer.step_number) or (labels, np.array([0.2, 0.8]))))  # fmt: skip
    assert calls == list(
        range(trainer.plan.first_eligible_step, trainer.plan.steps + 1, trainer.plan.steps_per_epoch)
    )
    assert len(output.folder.joinpath("log.jsonl").read_text().splitlines()) == len(calls)


def test_flips_of_the_paper_are_uniform_over_four(tmp_path):
    flips = trainer_of(tmp_path)._flips(8000, torch.Generator().manual_seed(0))
    assert flips.shape == (8000, 1)
    assert (torch.bincount(flips.flatten(), minlength=4) / 8000).numpy() == pytest.approx(0.25, abs=0.02)


# --- cached features against the same run through the images -----------------------------------------------------


@pytest.mark.parametrize("epsilon", ["6", "inf"])
def test_cached_run_equals_run_through_images(small, epsilon):
    """20 steps, same noise: largest difference at most 1e-4 of the largest change. Train mode must fail this."""
    config = config_of(*small.small, "recipe=dp_gd", "recipe.epochs=20", f"privacy.epsilon={epsilon}")
    patches = PatchSet.load(node_of(config, "extract_patches").artifact())
    cached = load_file(node_of(config, "extract_features").artifact().path("features.safetensors"))[
        "features"
    ]
    backbone = build_backbone(config.classifier)
    encode = encoder(backbone, torch.device("cpu"), precision="float32")
    images = ImageFeatures(patches.images, encode, config.classifier, prepare=UNIT_LENGTH, batch_size=13)
    positions = patches.rows("train")

    def final(source) -> torch.Tensor:
        plan = make_plan(config, units=len(positions), cache=calibrations())
        trainer = HeadTrainer(
            build_head(config.recipe, features=feature_size(backbone), seed=0),
            source,
            Units.of_each(positions),
            torch.from_numpy(patches.malignant),
            plan=plan,
            recipe=config.recipe,
            randomness=Randomness(secure=False, seed=0, run="run"),
            device=torch.device("cpu"),
        )
        for _ in range(plan.steps):
            trainer.step()
        return weights(trainer)

    through_cache = final(CachedFeatures(cached, prepare=UNIT_LENGTH))
    change = through_cache.abs().max()  # the head starts at zero
    assert change > 0.1
    assert (final(images) - through_cache).abs().max() <= 1e-4 * change

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="train mode"):
        encoder(backbone.train(), torch.device("cpu"), precision="float32")
    with torch.no_grad():
        in_train_mode = all_flips(patches.images, backbone.train(), config.classifier)
    wrong = final(CachedFeatures(in_train_mode, prepare=UNIT_LENGTH))
    assert (wrong - through_cache).abs().max() > 1e-4 * change


def test_a_run_without_the_cache_goes_through_the_stage(small):
    words = [*small.small, "stage=train_classifier", "recipe=dp_gd", "recipe.epochs=3", "privacy.epsilon=inf"]
    tables = []
    for flag in ("true", "false"):  # not private: the two draw different noise, being two releases
        assert small.run(*words, f"classifier.cache_features={flag}") == 0
        folder = node_of(config_of(*words, f"classifier.cache_features={flag}")).folder
        tables.append(load_file(folder / "head.safetensors")["0.weight"])
    torch.testing.assert_close(*tables, rtol=1e-3, atol=1e-4)


def test_predict_averages_flips():
    source, positions, _ = toy_problem()
    head = build_head(config_of("recipe=paper").recipe, features=8, seed=0)
    flips = predict(head, source, positions, test_flips=True)
    with torch.no_grad():
        by_hand = head(source.table).softmax(-1)[..., 1].mean(1)
    assert flips == pytest.approx(by_hand.numpy(), abs=1e-6)
    assert not np.allclose(flips, predict(head, source, positions, test_flips=False))


def test_plan_of_infinite_epsilon_has_no_mechanism(tmp_path):
    plan = make_plan(config_of("recipe=paper", "privacy.epsilon=inf"), units=100, cache=calibrations())
    assert plan == Plan(300, 1, None, 0, 100)


def test_no_two_runs_share_noise(small):
    """Same seed, another epsilon: with shared noise, two releases could be subtracted until private data is left."""
    words = [*small.small, "stage=train_classifier", "recipe=dp_gd", "recipe.epochs=1", "seed=5"]
    found = []
    for budget in ("1", "6"):
        assert small.run(*words, f"privacy.epsilon={budget}") == 0
        node = node_of(config_of(*words, f"privacy.epsilon={budget}"))
        sigma = node.artifact().manifest["privacy"]["noise_multiplier"]
        found.append((sigma, load_file(node.folder / "head.safetensors")["0.weight"]))
    (s1, w1), (s6, w6) = found
    config = config_of(*words)
    scale = config.recipe.lr * config.recipe.max_grad_norm / config.public_count
    assert abs(torch.corrcoef(torch.stack([w1.flatten(), w6.flatten()]))[0, 1]) < 0.5
    # independent noise: the difference has the variance of both
    assert (w1 - w6).std() == pytest.approx(scale * (s1**2 + s6**2) ** 0.5, rel=0.25)


def test_damaged_checkpoint_is_one_sentence(tmp_path):
    trainer = trainer_of(tmp_path, "privacy.epsilon=2")
    (tmp_path / "last.pt").write_bytes(b"cut in half")
    with pytest.raises(UserError, match="force=true"):
        train(trainer, output=Output(tmp_path, Cache(tmp_path)), checkpoint_seconds=99, after_epoch=None)


# --- units, public images, secure randomness -------------------------------------------------------------------------


def test_every_accounted_step_is_a_noisy_step(tmp_path, monkeypatch):
    """The mechanism that is accounted has as many steps as the loop takes, each with noise of its own."""
    trainer = trainer_of(tmp_path, "privacy.epsilon=2")
    draws = []
    trainer.optimizer.observer = lambda total, noisy: draws.append(1)
    train(trainer, output=Output(tmp_path, Cache(tmp_path)), checkpoint_seconds=99,
          after_epoch=trainer.best_val(lambda: (np.array([0, 1]), np.array([0.2, 0.8]))))  # fmt: skip
    mechanism = trainer.plan.mechanism
    assert mechanism is not None
    assert len(draws) == mechanism.steps == trainer.plan.steps == trainer.step_number == 15
    assert trainer.batches.sample_rate == mechanism.sample_rate  # type: ignore[union-attr]
    assert trainer.optimizer.noise_multiplier == mechanism.noise_multiplier
    assert epsilon(mechanism, delta=0.001, accountant="rdp") == pytest.approx(2, abs=1e-3)


def test_resume_restores_the_spent_epsilon(tmp_path):
    words = ("privacy.epsilon=2", "recipe.batch_size=20")
    first, second = trainer_of(tmp_path, *words), trainer_of(tmp_path, *words)
    for _ in range(6):
        first.step()
    second.load_state_dict(first.state_dict())
    spent = [
        epsilon(replace(t.plan.mechanism, steps=t.step_number), delta=0.001, accountant="rdp")
        for t in (first, second)
    ]
    assert spent[0] == spent[1] > 0


def synthetic_units() -> Units:
    return Units.of_each(range(40, 60))


@pytest.mark.parametrize("batch_size", ["null", "8"])
def test_resume_with_public_images_is_bit_identical(tmp_path, batch_size):
    words = (
        "privacy.epsilon=2",
        f"recipe.batch_size={batch_size}",
        "recipe.select=last",
        "recipe.flips=random",
    )
    whole = trainer_of(tmp_path, *words, public=synthetic_units())
    for _ in range(5):
        whole.step()
    first, second = (trainer_of(tmp_path, *words, public=synthetic_units()) for _ in range(2))
    for _ in range(2):
        first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.step()
    assert torch.equal(weights(second), weights(whole))


def test_public_gradients_are_mixed_after_the_noise(tmp_path):
    """(N g + w M h) / (N + w M), with g the noisy private mean and h the mean of the clipped public gradients."""
    words = ("privacy.epsilon=2", "recipe=dp_gd", "recipe.epochs=1", "recipe.lr=1", "recipe.momentum=0")
    n, weighed = 60, 3.0 * 20
    moved = {}
    for name, public in (("alone", None), ("mixed", synthetic_units())):
        trainer = trainer_of(tmp_path, *words, public=public, share=n / (n + weighed))
        trainer.step()
        moved[name] = -weights(trainer)  # the head starts at zero, and one step of size 1
        if public is None:
            clean = trainer_of(tmp_path, *words)
            units = synthetic_units()
            clean.sum_gradients(units, torch.arange(20), flips=clean.public_rng)
            h = torch.cat([p.grad.flatten() for p in clean.head.parameters()]) / 20
    torch.testing.assert_close(moved["mixed"], (n * moved["alone"] + weighed * h) / (n + weighed))


def test_public_images_enter_neither_n_nor_q(tmp_path):
    words = ("privacy.epsilon=2", "recipe.batch_size=20")
    without, having = trainer_of(tmp_path, *words), trainer_of(tmp_path, *words, public=synthetic_units())
    assert having.plan == without.plan
    assert having.optimizer.divisor == without.optimizer.divisor


def test_secure_runs_save_no_random_state_and_go_on_with_fresh_noise(tmp_path):
    words = ("privacy.epsilon=2", "privacy.randomness=secure", "recipe.select=last")
    first = trainer_of(tmp_path, *words)
    for _ in range(3):
        first.step()
    state = first.state_dict()
    assert not any("rng" in key for key in state)
    ends = []
    for _ in range(2):
        again = trainer_of(tmp_path, *words)
        again.load_state_dict(state)
        assert again.step_number == 3
        while again.step_number < again.plan.steps:
            again.step()
        ends.append(weights(again))
    assert not torch.equal(*ends)
    assert again.optimizer.noise.sampler == "opendp"
    assert isinstance(again.batches, SecurePoissonBatches)


def test_a_small_patient_counts_as_much_as_a_large_one(tmp_path):
    """Not private, at patient level: the step is the mean over patients, not over images."""
    config = config_of("privacy.epsilon=inf", "recipe=dp_gd", "recipe.epochs=1", "recipe.lr=1", "recipe.momentum=0",
                       "privacy.unit=patient")  # fmt: skip
    source, _, labels = toy_problem()
    units = Units.grouped([0, 1, 2, 3], ["a", "a", "a", "b"])
    trainer = HeadTrainer(
        build_head(config.recipe, features=8, seed=0), source, units, labels,
        plan=make_plan(config, units=len(units), cache=calibrations()), recipe=config.recipe,
        randomness=Randomness(secure=False, seed=0, run="run"), device=torch.device("cpu"),
    )  # fmt: skip
    trainer.step()
    residual = 0.5 - torch.nn.functional.one_hot(labels[:4], 2)
    delta = residual[:, :, None] * source.table[:4].mean(1)[:, None]
    torch.testing.assert_close(trainer.head[0].weight.detach(), -(delta[:3].mean(0) + delta[3]) / 2)


def test_public_batches_differ_where_the_private_batch_is_full(tmp_path, monkeypatch):
    trainer = trainer_of(
        tmp_path, "privacy.epsilon=2", "recipe.batch_size=8", "recipe.flips=none", "privacy.public_count=8",
        public=synthetic_units(),
    )  # fmt: skip
    seen = []
    original = trainer._rows
    monkeypatch.setattr(trainer, "_rows", lambda u, chosen, f: seen.append(chosen) or original(u, chosen, f))
    trainer.step()
    trainer.step()
    public = [chosen for chosen in seen if len(chosen) <= 8]
    assert len(public) == 2
    assert not torch.equal(*public)


def test_a_checkpoint_of_another_plan_is_refused(tmp_path):
    """Its steps were taken with other noise than the manifest would say."""
    first = trainer_of(tmp_path, "privacy.epsilon=2")
    first.step()
    with pytest.raises(UserError, match="another plan"):
        trainer_of(tmp_path, "privacy.epsilon=3").load_state_dict(first.state_dict())
