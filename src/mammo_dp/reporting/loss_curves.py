"""The curves of a GAN's training as SVG text."""

from collections.abc import Mapping, Sequence
from typing import Any

from mammo_dp.reporting.svg import plt, to_svg

COLOURS = {
    "loss_generator": ("#1f6fb4", "generator"),
    "loss_generated": ("#d1690e", "discriminator, generated images"),
    "loss_real": ("#2a9d4b", "discriminator, real images"),
}


def loss_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Losses by epoch, and beside them the distance that chose the checkpoint where there is one.

    rows: one mapping an epoch, with "epoch", the losses and perhaps "frechet_distance".
    """
    distances = [(row["epoch"], row["frechet_distance"]) for row in rows if "frechet_distance" in row]
    figure, axes = plt.subplots(
        1, 2 if distances else 1, figsize=(9 if distances else 5.5, 3.4), squeeze=False
    )
    for name, (colour, label) in COLOURS.items():
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        if points:
            axes[0][0].plot(*zip(*points, strict=True), color=colour, label=label)
    axes[0][0].set_ylabel("loss")
    axes[0][0].legend(fontsize=8)
    if distances:
        axes[0][1].plot(*zip(*distances, strict=True), "o-", color="0.3")
        axes[0][1].set_ylabel("Frechet distance to the training patches")
    for panel in axes[0]:
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.25)
    return to_svg(figure)
