"""The page of settings, and what --help says of one."""

from pathlib import Path

import pytest

from mammo_dp import cli
from mammo_dp.config import reference
from mammo_dp.config.compose import settings

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current():
    written = (ROOT / "docs/settings.md").read_text()
    assert written == reference.page() + "\n", "python -m mammo_dp --help settings > docs/settings.md"


def test_every_setting_says_what_it_means():
    assert [key for key, field in settings() if not reference.meaning(field)] == []


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("privacy.epsilon", "privacy.epsilon  (float > 0; default 6.0)\n    inf: trained without privacy."),
        ("recipe.batch_size", "(int | null > 0; default 128)"),
        ("gan.zoom", "(list of float > 0 <= 10; default [0.9, 1.1])"),
        ("classifier.trainable", "(head | norm_head | last_stage | bias | all; default head)"),
        ("pretraining.epochs", "default 300"),
        ("dataset.name", "default by preset"),
        ("privacy", "privacy.require"),
        ("train_classifier", "uses the settings experiment, recipe"),
    ],
)
def test_help_of_a_setting(key, expected, capsys):
    assert cli.main(["--help", key]) == cli.DONE
    assert expected in capsys.readouterr().out


def test_help_of_what_is_not_there_names_the_nearest(capsys):
    assert cli.main(["--help", "privacy.epsillon"]) == cli.REFUSED
    assert "Did you mean privacy.epsilon?" in capsys.readouterr().err
