"""matplotlib without a window, and figures as text that is the same in every run."""

import io

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

__all__ = ["plt", "to_svg"]

plt.rcParams.update({"svg.hashsalt": "mammo_dp", "svg.fonttype": "none", "font.size": 9})


def to_svg(figure: Figure) -> str:
    """The figure's <svg> element; the figure is closed."""
    figure.tight_layout()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
