import numpy as np
import pandas as pd
import pytest

from mammo_dp.metrics.performance import performance


def index_of(**columns) -> pd.DataFrame:
    base = dict.fromkeys(("view", "density", "subtlety", "acquisition", "abnormality", "lesion"), "")
    return pd.DataFrame({**{k: [v] * len(columns["malignant"]) for k, v in base.items()}, **columns})


def test_levels_by_hand():
    """Views averaged within a lesion; a patient is malignant if one lesion is, and scored by the highest lesion."""
    index = index_of(malignant=[1, 1, 0, 0, 1], lesion=["a_1", "a_1", "a_2", "b_1", "c_1"])
    patients = np.array(["a", "a", "a", "b", "c"])
    found = performance(index, patients, np.array([0.9, 0.1, 0.6, 0.55, 0.8]))
    assert found["n"] == 5
    # lesions: a_1 (.5, malignant), a_2 (.6), b_1 (.55), c_1 (.8, malignant): 2 of 4 pairs in order
    assert (found["lesion"]["n"], found["lesion"]["auroc"]) == (4, 0.5)
    # patients: a (.6, malignant), b (.55), c (.8, malignant)
    assert (found["patient"]["n"], found["patient"]["n_malignant"], found["patient"]["auroc"]) == (3, 2, 1.0)
    assert found["prevalence_benign"] == pytest.approx(0.4)


def test_ids_that_are_not_known_leave_the_level_out():
    index = index_of(malignant=[1, 0, 1], lesion=["x", "", "z"])
    assert "lesion" not in performance(index, np.array(["a", "b", "c"]), np.array([0.5, 0.4, 0.6]))
    found = performance(index, np.array(["a", "", "c"]), np.array([0.5, 0.4, 0.6]))
    assert "patient" not in found
    assert found["auroc"] == 1.0


def test_subgroups_are_those_that_the_index_tells_apart():
    index = index_of(malignant=[1, 0, 1, 0], view=["CC", "CC", "MLO", "MLO"], density=["2"] * 4)
    found = performance(index, np.array(list("abcd")), np.array([0.9, 0.1, 0.2, 0.8]))
    assert set(found["subgroups"]) == {"view"}
    assert {v: m["auroc"] for v, m in found["subgroups"]["view"].items()} == {"CC": 1.0, "MLO": 0.0}
    assert found["subgroups"]["view"]["CC"]["n"] == 2
