"""Scores of saved classifiers equal those that training wrote, from runs and bundles, patches and tables."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from mammo_dp.stages import node_of
from tests.conftest import config_of
from tests.training.test_build import run


def predicted(small, *words: str) -> pd.DataFrame:
    every = [f"outputs={small.outputs}", "stage=predict", *words]
    assert small.run(*every) == 0
    return pd.read_csv(node_of(config_of(*every)).artifact().path("predictions.csv"), keep_default_na=False)


def patches_of(small):
    patches = node_of(config_of(*small.small), "extract_patches").artifact()
    return patches.folder / "toy_cbis" / "test"


CASES = {
    "real": ("privacy.epsilon=2", "privacy.accountant=rdp", "recipe.select=last"),
    "real, dp_gd": ("privacy.epsilon=2", "recipe=dp_gd"),
    "real, dp_rule on stages": ("privacy.epsilon=2", "recipe=dp_rule", "recipe.batch_size=null",
                                "classifier.features=stages"),
    "synpre": ("privacy.epsilon=inf", "pretraining.select=last"),
    "synpre_realft": ("privacy.epsilon=2", "privacy.accountant=rdp", "recipe.select=last", "pretraining.select=last",
                      "classifier.trainable=norm_head"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_scores_of_a_run_and_of_its_bundle_are_those_of_training(small, tmp_path, case):
    words = (f"experiment={case.split(',')[0]}", *CASES[case])
    artifact = run(small, *words)
    table = pd.read_csv(artifact.path("predictions.csv"))
    expected = table[(table["split"] == "test") & (table["source"] == "toy_cbis")].sort_values("patch")
    found = predicted(small, f"predict.model={artifact.folder}", f"predict.input={patches_of(small)}")
    assert found["p_malignant"].to_numpy() == pytest.approx(expected["p_malignant"].to_numpy(), abs=2e-5)
    assert list(found.columns) == ["row", "image_sha256", "p_malignant", "reason"]

    from tests.training.test_build import MADE

    every = [
        *small.small,
        *MADE,
        *words,
        "stage=export",
        "export.accept=[no_guarantee,seeded_noise,large_delta]",
    ]
    assert small.run(*every) == 0
    bundle = tmp_path / "elsewhere"
    shutil.copytree(node_of(config_of(*every)).folder / "bundle", bundle)
    again = predicted(
        small, f"predict.model={bundle}", f"predict.input={patches_of(small)}", "predict.names=true"
    )
    assert again["p_malignant"].to_numpy() == pytest.approx(found["p_malignant"].to_numpy(), abs=1e-6)
    assert again["file"].iloc[0].startswith("benign/")


def test_a_table_is_cut_as_in_training_and_says_why_a_row_has_no_score(small, tmp_path, capsys):
    artifact = run(small, "experiment=real", *CASES["real, dp_gd"])
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "smith_john.png"), rng.integers(0, 255, (600, 500)).astype(np.uint8))
    (tmp_path / "table.csv").write_text(
        "image,box\nsmith_john.png,100 120 220 260\nsmith_john.png,300 300 380 390\nabsent.png,1 1 50 50\n"
    )
    found = predicted(small, f"predict.model={artifact.folder}", f"predict.input={tmp_path}/table.csv")
    assert found["row"].tolist() == ["row 2", "row 3", "row 4"]
    assert found["p_malignant"].astype(str).ne("").tolist() == [True, True, False]
    assert found["p_malignant"].iloc[0] != found["p_malignant"].iloc[1]
    assert found["reason"].iloc[2]
    for path in small.outputs.glob("predict/*/*"):
        assert b"smith" not in path.read_bytes()
    assert "2 scores" in capsys.readouterr().out


def test_what_cannot_be_used_is_one_sentence(small, tmp_path, capsys):
    artifact = run(small, "experiment=real", *CASES["real, dp_gd"])
    ok = f"predict.input={patches_of(small)}"
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([ok], "predict.model is missing"),
        ([f"predict.model={tmp_path}", ok], "holds no head.safetensors"),
        ([f"predict.model={artifact.folder}", f"predict.input={tmp_path}/none"], "does not exist"),
        ([f"predict.model={artifact.folder}", f"predict.input={tmp_path}/empty"], "holds no"),
    ):
        assert small.run(f"outputs={small.outputs}", "stage=predict", *words) == 2
        assert said in capsys.readouterr().err
