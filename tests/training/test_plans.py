"""The published arithmetic: noise multipliers and steps of the paper's runs, from the configuration alone."""

import pytest

from mammo_dp.files import Cache
from mammo_dp.training.plans import private_mechanism
from tests.conftest import config_of

# Osuala et al. 2024 and published code: RDP accounting, delta 1e-4, batches of 128
PAPER = {
    "real": (2700, 9, {1: 20.31, 6: 4.336, 12: 2.540, 20: 1.784, 60: 0.961}),
    "real_syn": (9900, 33, {1: 10.63, 6: 2.344, 12: 1.447, 20: 1.082, 60: 0.683}),
}


@pytest.mark.parametrize("experiment", PAPER)
def test_noise_multipliers_of_the_paper(tmp_path, experiment):
    steps, batches, multipliers = PAPER[experiment]
    for epsilon, expected in multipliers.items():
        config = config_of(
            "stage=train_classifier", f"experiment={experiment}", "synthetic=release", "dataset.root=unused",
            "recipe=paper", "privacy.accountant=rdp", f"privacy.epsilon={epsilon}",
        )  # fmt: skip
        mechanism = private_mechanism(config, Cache(tmp_path))
        assert mechanism.steps == steps
        assert mechanism.sample_rate == pytest.approx(1 / batches)
        assert mechanism.noise_multiplier == pytest.approx(expected, rel=0.005)


def test_synpre_realft_spends_as_real_does(tmp_path):
    """Its synthetic images are no private records: N stays that of the real ones."""
    words = ("stage=train_classifier", "synthetic=release", "dataset.root=unused", "privacy.accountant=rdp")
    plans = [
        private_mechanism(config_of(*words, f"experiment={e}"), Cache(tmp_path))
        for e in ("real", "synpre_realft")
    ]
    assert plans[0] == plans[1]
