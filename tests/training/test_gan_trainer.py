"""The GAN's loop: what is counted and kept, resume, what stops a run, and the private discriminator."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from mammo_dp.engine.artifacts import PREVIOUS, Output
from mammo_dp.errors import UserError
from mammo_dp.files import Cache
from mammo_dp.models.mcgan import build_gan
from mammo_dp.privacy.sampling import Randomness
from mammo_dp.privacy.units import Units
from mammo_dp.training import checkpoint
from mammo_dp.training import gan_trainer as module
from mammo_dp.training.gan_trainer import (
    Diverged,
    GanTrainer,
    on_generated_images,
    on_real_images,
    spread,
)
from mammo_dp.training.plans import make_generator_plan
from tests.conftest import calibrations, config_of
from tests.privacy.replay import Replay

pytestmark = pytest.mark.slow

TINY = (
    "gan=small", "stage=train_gan", "dataset=toy", "dataset.public_count.official={image:40,patient:20}",
    "dataset.val_fraction=0", "recipe=dp_gd", "gan.size=16", "gan.generator_channels=[8,4]",
    "gan.discriminator_channels=[4,8]",
    "gan.batch_size=8", "gan.epochs=4", "gan.checkpoint_every=2", "privacy.delta=0.001",
)  # fmt: skip
PRIVATE = ("gan.privacy.epsilon=5", "gan.privacy.accountant=rdp")


def trainer_of(tmp_path: Path, *words: str, images: torch.Tensor | None = None) -> GanTrainer:
    config = config_of(*TINY, *words)
    rng = torch.Generator().manual_seed(0)
    if images is None:
        images = torch.randint(256, (40, 16, 16), dtype=torch.uint8, generator=rng)
    units = Units.of_each(range(40))
    if config.gan.privacy.is_private and config.gan.privacy.unit == "patient":
        units = Units.grouped(range(40), [f"p{k // 2}" for k in range(40)])
    return GanTrainer(
        build_gan(config.gan),
        images,
        torch.arange(40) % 2,
        units,
        plan=make_generator_plan(config, images=40, cache=calibrations()),
        settings=config.gan,
        runtime=config.runtime,
        randomness=Randomness(config.gan.privacy.randomness == "secure", config.gan.seed, "run"),
        device=torch.device("cpu"),
    )


@pytest.fixture(autouse=True)
def _save_at_every_step(monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVING_SHARE", math.inf)


def weights(trainer: GanTrainer) -> torch.Tensor:
    states = (trainer.generator, trainer.discriminator, trainer.kept)
    return torch.cat([v.flatten() for network in states for v in network.state_dict().values()])


def output_of(tmp_path: Path) -> Output:
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    return Output(folder, Cache(tmp_path / "cache"))


def log_rows(output: Output) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output.folder / "log.jsonl").read_text().splitlines()]


def run(trainer: GanTrainer, output: Output, *, seconds: float = 0.0, keep=lambda epoch: {}) -> None:
    module.train_gan(trainer, output=output, checkpoint_seconds=seconds, keep=keep)


# --- losses and steps ---------------------------------------------------------------------------------------------


def test_losses_are_the_papers():
    """BCE against uniform targets, 0 on generated images, 1 for the generator, by torch's own BCE on probabilities."""
    logits, target = torch.randn(9, 1), torch.rand(9) * 0.5 + 0.7
    p = logits[:, 0].sigmoid()
    by_hand = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    labels = torch.zeros(9, dtype=torch.int64)
    assert torch.allclose(on_real_images(logits, target, labels), by_hand)
    assert torch.allclose(on_generated_images(logits), functional.binary_cross_entropy(p, torch.zeros(9)))
    with_class = torch.randn(9, 3)
    labels = torch.arange(9) % 2
    extra = on_real_images(with_class, target, labels) - on_real_images(with_class[:, :1], target, labels)
    assert torch.allclose(extra, functional.cross_entropy(with_class[:, 1:], labels))


def test_targets_are_uniform_between_the_papers_bounds(tmp_path):
    trainer = trainer_of(tmp_path, "gan.real_target=[0.7,1.2]")
    targets = torch.cat([trainer._real(torch.arange(40))[2] for _ in range(50)])
    assert 0.7 <= targets.min() < 0.71
    assert 1.19 < targets.max() <= 1.2
    assert abs(targets.mean() - 0.95) < 0.01


def test_one_step_of_each_network_a_batch_or_several_of_the_discriminator(tmp_path):
    for steps in (1, 3):
        trainer = trainer_of(tmp_path, f"gan.discriminator_steps={steps}")
        moved = []
        for _ in range(6):
            before = torch.cat([p.flatten().clone() for p in trainer.generator.parameters()])
            other = torch.cat([p.flatten().clone() for p in trainer.discriminator.parameters()])
            trainer.step()
            after = torch.cat([p.flatten() for p in trainer.generator.parameters()])
            assert not torch.equal(
                other, torch.cat([p.flatten() for p in trainer.discriminator.parameters()])
            )
            moved.append(not torch.equal(before, after))
        assert moved == [(k + 1) % steps == 0 for k in range(6)]


def test_a_step_equals_the_textbook(tmp_path):
    """One step written out as in DCGAN: two passes of the discriminator, then the generator through the new one."""
    words = ("gan.flips=false", "gan.zoom=[1,1]", "gan.aspect=[1,1]", "gan.real_target=[1,1]", "gan.averaging=0",
             "gan.label_injection=embedding", "gan.batch_size=40")  # fmt: skip
    trainer = trainer_of(tmp_path, *words)
    generator, discriminator = build_gan(trainer.settings)
    adams = [
        torch.optim.Adam(n.parameters(), trainer.settings.lr, (0.5, 0.999))
        for n in (generator, discriminator)
    ]
    latents, labels = module.draw_latents(
        40, 100, Randomness(False, trainer.settings.seed, "run").generator("latents")
    )
    real, classes = trainer.images.float() / 127.5 - 1, trainer.labels
    fake = generator(latents, labels)
    bce = functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(40, 1), torch.zeros(40, 1)
    (bce(discriminator(real, classes), ones) + bce(discriminator(fake.detach(), labels), zeros)).backward()
    adams[1].step()
    adams[0].zero_grad()
    bce(discriminator(fake, labels), ones).backward()
    adams[0].step()
    trainer.step()
    for ours, theirs in ((trainer.generator, generator), (trainer.discriminator, discriminator)):
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a, b, atol=2e-5), name


@pytest.mark.parametrize(
    "words", [(), ("gan.norm=batch",), ("gan.augment=[color,translation,cutout]",), PRIVATE]
)
def test_the_layout_in_memory_changes_no_step(tmp_path, words):
    """A fused optimizer reads tensors in the order of memory: gradients have to lie as their parameters do."""
    last, plain = (trainer_of(tmp_path, *words, f"runtime.channels_last={w}") for w in ("true", "false"))
    for trainer in (last, plain):
        for _ in range(3):
            trainer.step()
    for a, b in zip(last.generator.parameters(), plain.generator.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-4)


def test_the_kept_generator_is_the_running_mean(tmp_path):
    trainer = trainer_of(tmp_path, "gan.averaging=0.75")
    mean = [p.detach().clone() for p in trainer.generator.parameters()]
    for _ in range(5):
        trainer.step()
        mean = [
            0.75 * m + 0.25 * p.detach() for m, p in zip(mean, trainer.generator.parameters(), strict=True)
        ]
    for m, kept in zip(mean, trainer.kept.parameters(), strict=True):
        assert torch.allclose(m, kept, atol=1e-6)
    assert trainer_of(tmp_path, "gan.averaging=0").kept is not trainer.kept


@pytest.mark.parametrize(
    "word", ["gan.norm=batch", "runtime.channels_last=true", "runtime.precision=bfloat16"]
)
def test_every_way_to_compute_learns(tmp_path, word):
    trainer = trainer_of(tmp_path, word)
    before = weights(trainer)
    for _ in range(3):
        trainer.step()
    assert weights(trainer).isfinite().all()
    assert not torch.equal(weights(trainer), before)


# --- resume and faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), PRIVATE, (*PRIVATE, "gan.privacy.unit=patient", "gan.discriminator_steps=3"),
                                   ("gan.norm=batch", "gan.discriminator_steps=2")])  # fmt: skip
def test_resume_from_any_step_is_bit_identical(tmp_path, words):
    whole = trainer_of(tmp_path, *words)
    output = output_of(tmp_path)
    run(whole, output)
    log = list(log_rows(output))
    for stop in (1, 7, 11):
        (tmp_path / f"at{stop}").mkdir()
        part = output_of(tmp_path / f"at{stop}")
        first = trainer_of(tmp_path, *words)
        with pytest.raises(KeyboardInterrupt):
            run(_Stopping(first, stop), part)
        second = trainer_of(tmp_path, *words)
        run(second, part)
        assert torch.equal(weights(second), weights(whole))
        assert list(log_rows(part)) == log


class _Stopping:
    """A trainer that is interrupted before a step."""

    def __init__(self, trainer: GanTrainer, stop: int) -> None:
        self.__dict__["trainer"], self.__dict__["stop"] = trainer, stop

    def __getattr__(self, name):
        return getattr(self.trainer, name)

    def step(self) -> None:
        if self.trainer.step_number == self.stop:
            raise KeyboardInterrupt
        self.trainer.step()


def test_a_damaged_checkpoint_is_one_sentence_and_the_one_before_still_works(tmp_path):
    whole = trainer_of(tmp_path)
    run(whole, output_of(tmp_path))
    (tmp_path / "other").mkdir()
    output = output_of(tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        run(_Stopping(trainer_of(tmp_path), 9), output)
    last = output.folder / "last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"last\.pt cannot be read.*delete last\.pt.*{PREVIOUS}"):
        run(trainer_of(tmp_path), output)
    last.unlink()
    resumed = trainer_of(tmp_path)
    run(resumed, output)
    assert torch.equal(weights(resumed), weights(whole))


def test_another_plan_is_refused(tmp_path):
    output = output_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(_Stopping(trainer_of(tmp_path, *PRIVATE), 9), output)
    with pytest.raises(UserError, match="another plan"):
        run(trainer_of(tmp_path, "gan.privacy.epsilon=9", "gan.privacy.accountant=rdp"), output)


def test_a_full_disk_keeps_the_checkpoint(tmp_path, monkeypatch):
    output = output_of(tmp_path)
    trainer = trainer_of(tmp_path)
    original, calls = checkpoint.save, []

    def save(state, path):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        original(state, path)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(OSError, match="No space"):
        run(trainer, output)
    monkeypatch.setattr(checkpoint, "save", original)
    resumed, whole = trainer_of(tmp_path), trainer_of(tmp_path)
    run(resumed, output)
    (tmp_path / "whole").mkdir()
    run(whole, output_of(tmp_path / "whole"))
    assert torch.equal(weights(resumed), weights(whole))


def test_a_nan_in_a_batch_ends_the_run_with_the_last_good_checkpoint(tmp_path):
    output = output_of(tmp_path)
    trainer = trainer_of(tmp_path)
    original = trainer._real

    def spoilt(positions):
        images, labels, target = original(positions)
        if trainer.step_number == 12:  # in the 13th step
            images[0] = math.nan
        return images, labels, target

    trainer._real = spoilt  # type: ignore[method-assign]
    (output.folder / "checkpoints").mkdir()

    def keep(epoch):
        (output.folder / f"checkpoints/epoch-{epoch:05d}.safetensors").touch()
        return {}

    with pytest.raises(
        Diverged, match=r"no longer finite at step 13 .*checkpoints/epoch-00002\.safetensors.*gan\.lr"
    ):
        run(trainer, output, keep=keep)
    saved = torch.load(output.folder / "last.pt", weights_only=True)["trainer"]
    assert saved["step"] == 12
    assert all(v.isfinite().all() for v in saved["discriminator"].values())


def test_a_certain_discriminator_ends_the_run(tmp_path):
    """Control: one epoch of doubt in between starts the count again."""
    trainer = trainer_of(tmp_path, "gan.stop_after=3", "gan.epochs=20")

    def epoch(loss: float) -> None:
        trainer.step_number += trainer.plan.steps_per_epoch
        trainer.losses[:] = loss * trainer.plan.steps_per_epoch
        trainer.end_epoch()

    for loss in (0, 0, 1, 0, 0):
        epoch(loss)
    with pytest.raises(Diverged, match="certain of every generated image for 3 epochs"):
        epoch(0)


def checkpoint_samples(factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of both classes; those of malignant spread `factor` times as far as those of benign."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (20, 16, 16))
    scale = np.where(np.arange(20) < 10, 70, 70 * factor)[:, None, None]
    samples = np.clip(128 + scale * noise, 0, 255).astype(np.uint8)
    return torch.from_numpy(samples), torch.arange(20) // 10


def test_a_collapse_stops_the_run_and_a_healthy_one_goes_on(tmp_path):
    """Three checkpoints in a row below gan.stop_spread of the real images' spread, in one class alone.

    The spread of ten draws of a uniform byte, the trainer's real images: about 74 grey levels. Controls: a healthy run
    for ten checkpoints, and one that recovers in between.
    """
    healthy, collapsed = checkpoint_samples(1), checkpoint_samples(0.1)
    trainer = trainer_of(tmp_path)
    for _ in range(10):
        shares = trainer.check_spread(*healthy)
    assert all(0.7 < share < 1.2 for share in shares.values())
    for given in (collapsed, collapsed, healthy, collapsed, collapsed):
        shares = trainer.check_spread(*given)
    assert shares["spread_malignant"] < 0.15 < 0.7 < shares["spread_benign"]
    with pytest.raises(Diverged, match=r"malignant spread over latents by 0\.09 .*gan\.stop_spread=0\.25"):
        trainer.check_spread(*collapsed)
    tolerant = trainer_of(tmp_path, "gan.stop_spread=0.05")
    for _ in range(5):
        tolerant.check_spread(*collapsed)


def test_the_count_of_collapsed_checkpoints_survives_a_kill(tmp_path):
    collapsed = checkpoint_samples(0.1)
    first, second = trainer_of(tmp_path), trainer_of(tmp_path)
    for _ in range(2):
        first.check_spread(*collapsed)
    second.load_state_dict(first.state_dict())
    with pytest.raises(Diverged):
        second.check_spread(*collapsed)


def test_spread_is_the_standard_deviation_over_images_alone():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    assert spread(torch.from_numpy(images)) == pytest.approx(images.std(axis=0, ddof=1).mean(), rel=1e-6)
    assert spread(torch.from_numpy(images[:1]).expand(5, -1, -1)) == 0


def test_samples_that_are_all_alike_stop_a_private_run_too(tmp_path):
    """Which looks at samples alone: the same spread stops no private run, whatever the real images are."""
    samples, labels = checkpoint_samples(0.1)
    private = trainer_of(tmp_path, *PRIVATE)
    for _ in range(5):
        assert set(private.check_spread(samples, labels)) == {"spread_benign", "spread_malignant"}
    assert "real_spread" not in vars(private)
    samples[10:] = samples[10]
    for trainer in (private, trainer_of(tmp_path)):
        with pytest.raises(Diverged, match="class malignant are alike"):
            trainer.check_spread(samples, labels)


# --- the private discriminator ------------------------------------------------------------------------------------


def test_what_is_logged_of_a_private_run_has_not_seen_a_real_image(tmp_path):
    rows = {}
    for words in ((), PRIVATE):
        (tmp_path / str(len(words))).mkdir()
        output = output_of(tmp_path / str(len(words)))
        run(trainer_of(tmp_path, *words), output)
        rows[len(words)] = set(next(iter(log_rows(output))))
    assert rows[0] == {"epoch", "step", "loss_generator", "loss_generated", "loss_real"}
    assert rows[2] == {"epoch", "step", "loss_generator", "loss_generated"}


def test_real_images_enter_by_the_noisy_sum_alone(tmp_path):
    """With the noised sums replayed, other images give the same networks and the same log, bit for bit."""
    replay = Replay()
    outputs = []
    for number, images in enumerate((None, torch.zeros(40, 16, 16, dtype=torch.uint8))):
        trainer = trainer_of(tmp_path, *PRIVATE, images=images)
        (tmp_path / f"{number}").mkdir()
        output = output_of(tmp_path / f"{number}")
        with replay.installed():
            run(trainer, output)
        replay.recording = False
        outputs.append((weights(trainer), list(log_rows(output))))
    assert len(replay.sums) == 4 * 5
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert outputs[0][1] == outputs[1][1]


def test_an_empty_batch_is_a_noisy_step(tmp_path):
    trainer = trainer_of(tmp_path, *PRIVATE)
    trainer.batches.next = lambda: torch.empty(0, dtype=torch.int64)  # type: ignore[method-assign]
    before = torch.cat([p.flatten().clone() for p in trainer.discriminator.parameters()])
    noise = []
    trainer.optimizer.before_step = lambda: noise.append(  # type: ignore[method-assign]
        torch.cat([p.grad.flatten() for p in trainer.discriminator.parameters()])  # type: ignore[union-attr]
    )
    for _ in range(3):
        trainer.step()
    assert not torch.equal(before, torch.cat([p.flatten() for p in trainer.discriminator.parameters()]))
    mechanism, plan = trainer.plan.mechanism, trainer.plan
    assert mechanism is not None
    expected = mechanism.noise_multiplier * 1.0 / (mechanism.sample_rate * plan.public_count)
    drawn = torch.cat(noise)
    assert abs(drawn.std() / expected - 1) < 0.03
    assert not torch.equal(noise[0], noise[1])


def test_a_norm_of_the_batch_is_refused_in_the_trainer_too(tmp_path):
    """Config refuses it with a sentence; whoever comes past that meets the guard."""
    config = config_of(*TINY, *PRIVATE)
    spoilt = config.gan.model_copy(update={"norm": "batch"})
    with pytest.raises(ValueError, match="BatchNorm2d"):
        GanTrainer(
            build_gan(spoilt), torch.zeros(40, 16, 16, dtype=torch.uint8), torch.zeros(40), Units.of_each(range(40)),
            plan=make_generator_plan(config, images=40, cache=calibrations()), settings=spoilt, runtime=config.runtime,
            randomness=Randomness(False, 0, "run"), device=torch.device("cpu"),
        )  # fmt: skip


def test_the_plan_takes_nothing_from_private_sizes(tmp_path):
    config = config_of(*TINY, *PRIVATE)
    plans = [make_generator_plan(config, images=n, cache=calibrations()) for n in (40, 41, 7)]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0].mechanism is not None
    assert (plans[0].steps, plans[0].mechanism.sample_rate) == (4 * 5, 1 / 5)
    free = config_of(*TINY)
    assert make_generator_plan(free, images=17, cache=calibrations()).steps == 4 * 3


def test_patients_are_the_units(tmp_path):
    trainer = trainer_of(tmp_path, *PRIVATE, "gan.privacy.unit=patient")
    assert len(trainer.units) == 20
    assert trainer.plan.public_count == 20
