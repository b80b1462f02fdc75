from collections import Counter

from mammo_dp.data.splits import official_split, paper_split


def test_paper_split_has_the_published_sizes():
    assert Counter(paper_split().values()) == {"train": 578, "val": 102, "test": 212}


def test_official_split_is_per_patient_and_independent():
    patients = [f"P_{i:05d}" for i in range(4000)]
    split = {p: official_split(p, "train", val_fraction=0.15, seed=0) for p in patients}
    assert 0.12 < Counter(split.values())["val"] / 4000 < 0.18
    assert all(official_split(p, "test", val_fraction=0.15, seed=0) == "test" for p in patients[:50])
    other = {p: official_split(p, "train", val_fraction=0.15, seed=1) for p in patients}
    assert split != other
    assert set(official_split(p, "train", val_fraction=0.0, seed=0) for p in patients) == {"train"}
