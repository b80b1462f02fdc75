"""The audit of finished runs on phantoms: what is found, what is refused, resume, and the report beside the claims."""

import json

import pandas as pd
import pytest

from mammo_dp import cli
from mammo_dp.privacy.units import Units
from mammo_dp.stages import node_of
from mammo_dp.stages.audit_privacy import work as audit_privacy
from tests.conftest import config_of

RECIPE = ("recipe=dp_gd", "recipe.epochs=20")
AUDIT = (
    "stage=audit_privacy", "audit.models=120", "audit.canaries=600", "build_inputs=true",
    "runtime.checkpoint_seconds=0",
)  # fmt: skip


def audited(small, *words: str) -> tuple[dict, pd.DataFrame]:
    words = (*small.small, *RECIPE, *AUDIT, *words)
    assert small.run(*words) == cli.DONE
    artifact = node_of(config_of(*words)).artifact()
    assert artifact is not None
    return artifact.read_json("metrics.json"), pd.read_csv(artifact.path("attack.csv"), dtype={"record": str})


def test_members_of_a_run_without_privacy_are_found(small):
    """The positive control."""
    metrics, risk = audited(small, "privacy.epsilon=inf", "recipe.epochs=200")
    assert metrics["retrains"]["image"]["auc"]["low"] > 0.6
    assert metrics["claims"] == {"image": None, "patient": None}
    assert metrics["canaries"] is None
    assert set(risk["unit"]) == {"image", "patient"}
    assert risk.groupby("unit")["images"].sum().nunique() == 1  # the same images, grouped


def test_a_private_run_stays_below_its_claim(small):
    metrics, _ = audited(small, "privacy.epsilon=1")
    claim, bound = metrics["claims"]["image"], metrics["bounds"]["image"]
    assert claim["epsilon"] == pytest.approx(1, abs=1e-4)
    assert bound["epsilon"] < 1 < bound["ceiling"]
    assert metrics["claims"]["patient"]["epsilon"] > 1  # several images of a patient
    assert "canaries_threshold" not in metrics["bounds"]["patient"]["methods"]  # they stand for images here
    found = metrics["canaries"]
    assert found["noise_over_claim"]["low"] < 1 < found["noise_over_claim"]["high"]
    assert found["runs"] == 5  # 600 canaries, 130 parameters
    assert found["one_run"]["epsilon"] < found["one_run"]["claim"]
    assert (
        0.95
        < found["mu"]["low"] / found["mu"]["claimed"]
        < found["mu"]["high"] / found["mu"]["claimed"]
        < 1.05
    )
    assert all(check["passed"] for check in metrics["checks"].values())
    assert metrics["checks"]["released_weights"]["noise_over_claim"] == pytest.approx(1, abs=0.35)


def test_a_quarter_of_the_noise_contradicts_the_claim(small, capsys):
    metrics, _ = audited(small, "privacy.epsilon=1", "audit.noise_fraction=0.25")
    assert metrics["bounds"]["image"]["epsilon"] > 1
    assert "THE CLAIM IS CONTRADICTED" in capsys.readouterr().out


def test_a_trainer_that_clips_images_is_found_at_patient_level(small, monkeypatch, capsys):
    """The stage's own audit, on the trainer that it starts."""
    words = (
        *small.small,
        *AUDIT,
        *RECIPE,
        "audit.models=0",
        "privacy.epsilon=2",
        "privacy.unit=patient",
        "seed=3",
    )
    assert small.run(*words) == cli.DONE
    sound = node_of(config_of(*words)).artifact().read_json("metrics.json")
    assert all(check["passed"] for check in sound["checks"].values())
    assert sound["canaries"]["longest_unit_over_clip"] == pytest.approx(1, abs=1e-3)
    own = Units.numbered

    def numbered(units, chosen):
        for numbers, positions in own(units, chosen):
            for column in positions.T:
                yield numbers, column[:, None]

    monkeypatch.setattr(Units, "numbered", numbered)
    assert small.run(*words, "audit.seed=1") == cli.DONE
    said = capsys.readouterr().out
    assert "units are not clipped as claimed" in said
    assert "THE CLAIM IS CONTRADICTED" in said


def test_patients_are_the_canaries_of_a_run_at_patient_level(small):
    metrics, _ = audited(small, "privacy.epsilon=2", "privacy.unit=patient")
    assert "canaries_threshold" in metrics["bounds"]["patient"]["methods"]
    assert metrics["bounds"]["patient"]["epsilon"] < metrics["claims"]["patient"]["epsilon"]
    assert metrics["claims"]["image"]["epsilon"] > 2  # an image of a patient who stays is replaced


def test_poisson_batches_have_canaries_alone(small, capsys):
    words = (
        *small.small,
        *AUDIT,
        "recipe=paper",
        "recipe.epochs=2",
        "recipe.batch_size=8",
        "recipe.select=last",
        "privacy.epsilon=4",
    )
    assert small.run(*words) == cli.DONE
    artifact = node_of(config_of(*words)).artifact()
    metrics = artifact.read_json("metrics.json")
    assert metrics["retrains"] == {}
    assert metrics["bounds"]["patient"] == {}
    assert set(metrics["bounds"]["image"]["methods"]) == {"canaries_threshold"}
    assert "not SGD on a linear head" in capsys.readouterr().out


def test_a_missing_classifier_is_named_with_the_command_that_makes_it(small, capsys):
    words = (*small.small, *RECIPE, "privacy.epsilon=17", "privacy.unit=patient")
    assert small.run(*words, "stage=audit_privacy") == cli.REFUSED
    command = capsys.readouterr().err.partition("python -m mammo_dp ")[2].partition("   (")[0]
    assert (
        node_of(config_of(*command.split())).folder
        == node_of(config_of(*words, "stage=train_classifier")).folder
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("recipe=paper", "privacy.epsilon=inf"), "no head is retrained, and canaries need a private run"),
        (("recipe=dp_gd", "privacy.epsilon=2", "audit.models=0", "audit.canaries=0"), "audit.models=0"),
        (("experiment=syn", "privacy.epsilon=inf"), "no private image"),
        (("recipe=dp_gd", "audit.models=10"), "give 40 or more, or 0"),
        (("recipe=dp_gd", "audit.noise_fraction=1.5"), "less than or equal to 1"),
    ],
)
def test_what_cannot_be_audited_is_one_sentence(small, capsys, words, sentence):
    assert small.run(*small.small, *AUDIT[:1], "build_inputs=true", *words) == cli.REFUSED
    found = capsys.readouterr()
    assert sentence in found.err + found.out


def test_more_runs_than_anybody_waits_for(small, capsys):
    words = ("recipe=dp_gd", "privacy.epsilon=2", "audit.canaries=1000000", "audit.models=0", "seed=5")
    assert small.run(*small.small, *AUDIT[:1], "build_inputs=true", *words) == cli.FAILED
    assert "130 fit into one; set audit.canaries=26000 or fewer" in capsys.readouterr().err


def test_killed_between_two_parts_it_ends_the_same(small, monkeypatch):
    words = (*small.small, *RECIPE, *AUDIT, "privacy.epsilon=3")
    assert small.run(*words, "seed=7") == cli.DONE
    whole = node_of(config_of(*words, "seed=7")).artifact()
    before = whole.content_digest, whole.read_json("metrics.json")
    calls = []
    real = audit_privacy.retrained

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(audit_privacy, "retrained", dies)
    assert small.run(*words, "seed=7", "force=true") != cli.DONE
    assert (whole.folder / "last.pt").is_file()
    assert small.run(*words, "seed=7") == cli.DONE
    assert len(calls) == 3  # the first part was kept
    again = node_of(config_of(*words, "seed=7")).artifact()
    assert (again.content_digest, again.read_json("metrics.json")) == before


def test_the_report_has_every_private_row_and_no_name_of_a_record(small):
    audited(small, "privacy.epsilon=1")
    _, risk = audited(small, "privacy.epsilon=1", "audit.noise_fraction=0.25")
    train = ("stage=train_classifier", *RECIPE)
    assert small.run(*small.small, *train, "privacy.epsilon=5") == cli.DONE  # nobody audits this one
    assert small.run(f"outputs={small.outputs}", "stage=report") == cli.DONE
    folder = max(small.folders("report"), key=lambda path: path.stat().st_mtime)
    table = pd.read_csv(folder / "audits.csv")
    private = table[(table["epsilon"] == 1) & (table["unit"] == "image")].set_index("noise_fraction")
    assert private.loc[1.0, "claim"] == pytest.approx(1, abs=1e-4)
    assert not private.loc[1.0, "contradicted"]
    assert private.loc[0.25, "contradicted"]
    assert private.loc[1.0, "auroc_toy_cbis"] > 0
    assert table[table["epsilon"] == 5]["audited_runs"].tolist() == [0]
    page = (folder / "report.html").read_text()
    assert "not audited" in page
    assert "contradicts the claim" in page
    for name in risk["record"]:
        assert name not in page
    published = json.loads((folder / "manifest.json").read_text())["privacy"]["ledger"]
    assert any("membership attacks" in line for line in published["not_protected"])
    assert any("risk.csv" in line for line in published["must_not_be_released"])
