"""The published page says what a release says: nothing that only the owner of the data may know."""

import json
import re

import pytest

from mammo_dp import cli
from mammo_dp.privacy.gaussian import gaussian_epsilon, gaussian_mu
from mammo_dp.stages import node_of
from tests.conftest import config_of

WORDS = (
    "stage=train_classifier",
    "recipe=dp_gd",
    "recipe.epochs=4",
    "classifier.init_seed=5",
    "build_inputs=true",
)


@pytest.fixture
def page(small) -> str:
    for word in ("privacy.epsilon=2", "privacy.epsilon=5", "privacy.epsilon=inf"):
        assert small.run(*small.small, *WORDS, word) == cli.DONE
    assert small.run(f"outputs={small.outputs}", "stage=report") == cli.DONE
    folder = max(small.folders("report"), key=lambda path: path.stat().st_mtime)
    return (folder / "report.html").read_text()


def test_statements_are_those_of_a_release(small, page):
    node = node_of(config_of(*small.small, *WORDS, "privacy.epsilon=2"))
    owner = node.artifact().manifest["privacy"]["ledger"]["statement"]
    assert "for the patient with the most images (3)" in owner
    assert "with the most images" not in page
    assert "since a patient may have several images" in page


def test_no_name_changes_with_one_patients_file(small, page):
    """Names of artifacts hash the listing of the data."""
    for stage in ("extract_patches", "extract_features", "train_classifier"):
        for folder in small.folders(stage):
            assert folder.name.rpartition("-")[2] not in page, folder.name
    assert re.search(r"\d+ of train_classifier", page)


def test_rows_of_a_table_add_up(small, page):
    delta = json.loads(
        (node_of(config_of(*small.small, *WORDS, "privacy.epsilon=2")).folder / "manifest.json").read_text()
    )["privacy"]["delta"]
    together = (gaussian_mu(2, delta=delta) ** 2 + gaussian_mu(5, delta=delta) ** 2) ** 0.5
    expected = gaussian_epsilon(together, delta=delta)
    found = [float(text) for text in re.findall(r"together at most epsilon ([\d.]+) per image", page)]
    assert any(value == pytest.approx(expected, abs=0.01) for value in found), (found, expected)
    assert "Rows at epsilon ∞ are exact functions of the same patients" in page


def test_what_an_attacker_may_gain_stands_beside_epsilon(page):
    assert "success of a 1-in-1,000 guess" in page
    assert re.search(r"<td>real, ε 2</td><td>image</td><td>[\d.]+</td><td>[\d.]+ %</td>", page)
    assert re.search(r"<td>real, ε ∞</td><td>image</td><td>no bound</td>", page)
