import pandas as pd

from mammo_dp.data.patch_set import INDEX_COLUMNS, PatchSet, patch_name


def patients(*pairs: tuple[str, str]) -> list[str]:
    rows = [{"source": source, "patient": patient} for source, patient in pairs]
    return list(PatchSet((), pd.DataFrame(rows, columns=pd.Index(INDEX_COLUMNS))).patients)


def test_patients_of_two_sources_are_two():
    assert patients(("a", "7"), ("b", "7"), ("a", "7"), ("a", "")) == ["a/7", "b/7", "a/7", ""]


def test_a_pseudonym_is_one_patient_under_any_source():
    """A custom table may tell two devices apart; who was imaged on both is still one unit of privacy."""
    assert len(set(patients(("north", "p_0123456789ab"), ("south", "p_0123456789ab")))) == 1
    assert len(set(patients(("north", "p_0123456789AB"), ("south", "p_0123456789AB")))) == 2


def test_names_tell_what_is_in_them():
    assert patch_name(7, source="bcdr", split="test", malignant=True) == "bcdr/test/malignant/00007.png"
