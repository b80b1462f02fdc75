"""What may leave the building depends on a patient through the noisy sums alone, byte for byte."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mammo_dp.data.patch_set import INDEX_COLUMNS
from tests.conftest import config_of
from tests.privacy.replay import WORDS, Study, differing, variants_of

pytestmark = pytest.mark.slow

D = 16


def study(patients: int) -> Study:
    """A training set of the paper's shape: 1 to 14 images a patient, half of the images malignant; and a test set."""
    rng = np.random.default_rng(0)
    counts = np.where(rng.random(patients) < 0.65, 2, rng.integers(1, 4, patients))
    counts[3] = 14
    rows = []
    for number, images in enumerate([*counts, *[2] * 30]):
        malignant = int(rng.random() < 0.48)
        for image in range(images):
            row = dict.fromkeys(INDEX_COLUMNS, "") | {
                "patch": f"{number}-{image}.png", "source": "toy_cbis", "patient": f"P_{number:05d}",
                "split": "train" if number < patients else "test", "malignant": malignant,
                "source_sha256": hashlib.sha256(f"{number}-{image}".encode()).hexdigest(),
            }  # fmt: skip
            rows.append(row | dict.fromkeys(("box_x0", "box_y0", "box_x1", "box_y1"), 0))
    index = pd.DataFrame(rows)
    features = torch.randn(len(index), 4, D, generator=torch.Generator().manual_seed(0))
    features += 0.5 * torch.tensor(index["malignant"].tolist())[:, None, None]
    return Study(index, features)


def config(patients: int):
    return config_of(*WORDS, f"privacy.public_count={patients}", "recipe.epochs=4")


def test_no_patient_moves_a_byte_of_the_bundle(tmp_path):
    """All 578 patients removed, one at a time; 50 of them null, and 50 with other pixels and the other label."""
    whole = study(578)
    variants = variants_of(whole, changed=50)
    assert len(variants) == 678
    assert differing(whole, config(578), tmp_path / "run", variants) == []


DP_PUBLIC = ("public=toy", "recipe=dp_public", "recipe.components=8")


def test_directions_of_public_images_add_nothing_of_a_patient(tmp_path):
    """With recipe=dp_public, each of 120 patients removed, 20 null, 20 with other data: the same bytes."""
    whole = study(120)
    words = (*WORDS, *DP_PUBLIC, "privacy.public_count=120", "recipe.epochs=4")
    assert differing(whole, config_of(*words), tmp_path / "run", variants_of(whole, changed=20)) == []


def test_directions_of_private_features_are_found(tmp_path):
    """Negative control: a preparation that is learnt from the study itself."""
    small = study(12)
    words = config_of(*WORDS, *DP_PUBLIC, "privacy.public_count=12", "recipe.epochs=4")
    private = {"public": lambda found: found.features}
    assert differing(small, words, tmp_path / "run", variants_of(small, changed=2), **private)


def training_loss(found: Study, trained) -> float:
    rows = (found.index["split"] == "train").to_numpy()
    head = load_file(trained.path("head.safetensors"))
    x = torch.nn.functional.layer_norm(found.features[torch.from_numpy(rows), 0], (D,))
    logits = x @ head["0.weight"].T + head["0.bias"]
    labels = torch.from_numpy(found.index["malignant"].to_numpy()[rows])
    return float(torch.nn.functional.cross_entropy(logits, labels))


PLANTS = {
    "a training loss": training_loss,
    "a source hash": lambda found, trained: fingerprint_of(found),
    "an artifact fingerprint": lambda found, trained: trained.manifest["fingerprint"],
    "the number of images": lambda found, trained: int((found.index["split"] == "train").sum()),
    "the number of malignant images": lambda found, trained: int(
        found.index["malignant"][found.index["split"] == "train"].sum()
    ),
    "the name of the run": lambda found, trained: trained.manifest["privacy"]["ledger"]["events"],
}


def fingerprint_of(found: Study) -> str:
    return hashlib.sha256("".join(found.index["source_sha256"]).encode()).hexdigest()


@pytest.mark.parametrize("planted", list(PLANTS))
def test_a_planted_leak_is_found(planted, tmp_path):
    """Negative controls: what must not be in a bundle changes it."""
    small = study(12)
    variants = variants_of(small, changed=2)
    assert differing(small, config(12), tmp_path / "run", variants, plant=PLANTS[planted])


def test_the_most_images_of_a_patient_stay_behind(tmp_path):
    """Negative control: the owner's ledger re-reads an image-level run for the patient with 14 images."""
    small = study(12)
    words = (*WORDS, "privacy.public_count=40", "recipe.epochs=4", "privacy.unit=image")
    variants = {"without the patient of 14 images": lambda: small.without("P_00003")}
    assert differing(small, config_of(*words), tmp_path / "run", variants) == []
    plant = {"plant": lambda found, trained: trained.manifest["privacy"]["ledger"]["accounts"]}
    assert differing(small, config_of(*words), tmp_path / "run", variants, **plant)


def test_without_replayed_noise_bundles_differ(tmp_path):
    """Negative control: the replay is at work, and secure noise is fresh in every run."""
    from tests.privacy.replay import bundle

    small = study(12)
    first, second = (bundle(small, config(12), tmp_path / "run") for _ in range(2))
    assert first["head.safetensors"] != second["head.safetensors"]
    assert {name for name in first if first[name] != second[name]} == {"head.safetensors"}
