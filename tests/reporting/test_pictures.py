"""Figures of the GAN: what stands in them."""

import cv2
import numpy as np

from mammo_dp.reporting.figure2 import figure2
from mammo_dp.reporting.loss_curves import loss_curves
from mammo_dp.reporting.mosaic import mosaic

ROWS = [{"epoch": e, "step": 10 * e, "loss_generator": 2.0 / e, "loss_generated": 0.1 * e} for e in (1, 2, 3)]


def test_curves_show_what_was_logged_and_no_more():
    private = loss_curves(ROWS)
    assert "generated images" in private
    assert "real images" not in private
    assert "Frechet" not in private
    full = loss_curves([row | {"loss_real": 1.0, "frechet_distance": 5.0} for row in ROWS])
    assert "real images" in full
    assert "Frechet" in full
    assert loss_curves(ROWS) == private


def test_a_mosaic_holds_the_patches_where_they_belong():
    patches = [np.full((16, 16), value, np.uint8) for value in (10, 200, 90)]
    sheet = mosaic([("first\nrow", patches), ("second", patches[:1])], heading="of two rows")
    places = [np.argwhere(sheet == value) for value in (200, 90)]
    assert len(places[0]) == len(places[1]) == 256
    assert places[0][:, 1].max() < places[1][:, 1].min()
    assert (sheet == 10).sum() >= 512


def test_figure_2_is_a_picture_of_masses_and_numbers(tmp_path):
    masses = [(f"row {k}", [np.full((32, 32), 40 * k, np.uint8)] * 4) for k in range(4)]
    table = [{"pair": "train : synthetic", "FID, FRD": "1.2 ± 0.1", "N": "10 : 10"}] * 3
    figure2(tmp_path / "a.png", masses, table, note="a note")
    figure2(tmp_path / "b.png", masses, table, note="a note")
    image = cv2.imread(str(tmp_path / "a.png"))
    assert min(image.shape[:2]) > 300
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
