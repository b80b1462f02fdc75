"""The numbers of Osuala et al. 2024 (arXiv 2407.12669): Table 1, mean and population standard deviation over 3 seeds;
Fig. 2 with the authors' sheet, over three parts of the patients.

AUPRC has benign as the positive class. Two misprints are given as in the authors' sheet: the deviation of the CBIS
AUPRC of real at 60 and of the BCDR AUPRC of synpre_realft at 1.
"""

from typing import NamedTuple

INF = float("inf")


class Score(NamedTuple):
    mean: float
    std: float


# (experiment, epsilon): (CBIS AUROC, CBIS AUPRC, BCDR AUROC, BCDR AUPRC)
ROWS: dict[tuple[str, float], str] = {
    ("real", INF): ".778 .001  .850 .001  .695 .002  .726 .003",
    ("syn", INF): ".597 .011  .696 .011  .566 .064  .602 .048",
    ("synpre", INF): ".639 .016  .733 .001  .622 .032  .660 .017",
    ("real", 1): ".525 .043  .640 .030  .487 .020  .549 .020",
    ("real_syn", 1): ".553 .040  .665 .025  .521 .023  .573 .024",
    ("synpre_realft", 1): ".661 .018  .741 .007  .637 .026  .670 .013",
    ("real", 6): ".572 .031  .679 .019  .532 .031  .579 .029",
    ("real_syn", 6): ".617 .013  .708 .015  .609 .027  .647 .024",
    ("synpre_realft", 6): ".677 .014  .752 .009  .647 .022  .679 .009",
    ("real", 12): ".596 .023  .702 .013  .559 .033  .600 .030",
    ("real_syn", 12): ".624 .010  .704 .012  .625 .020  .663 .012",
    ("synpre_realft", 12): ".688 .012  .758 .011  .654 .019  .685 .007",
    ("real", 20): ".611 .018  .715 .012  .581 .028  .618 .026",
    ("real_syn", 20): ".630 .003  .699 .008  .641 .018  .685 .012",
    ("synpre_realft", 20): ".697 .012  .763 .012  .659 .017  .689 .006",
    ("real", 60): ".622 .014  .721 .011  .605 .019  .640 .017",
    ("real_syn", 60): ".629 .002  .694 .005  .650 .013  .696 .007",
    ("synpre_realft", 60): ".712 .013  .776 .013  .671 .014  .697 .004",
}
ERRATA = {
    "a": "The paper prints .110 for this deviation; the authors' sheet has .011.",
    "b": "The paper prints “0.67±0013”; the authors' sheet has .013.",
    "c": "Seed 44 of SynPre repeats seed 42 in the authors' sheet, so its deviation is of two runs.",
}
# (experiment, epsilon) or (experiment, epsilon, test set, metric) -> its footnote
ERRATA_AT: dict[tuple[object, ...], str] = {
    ("real", 60, "cbis_ddsm", "auprc_benign"): "ᵃ",
    ("synpre_realft", 1, "bcdr", "auprc_benign"): "ᵇ",
    ("synpre", INF): "ᶜ",
}
_COLUMNS = (
    ("cbis_ddsm", "auroc"),
    ("cbis_ddsm", "auprc_benign"),
    ("bcdr", "auroc"),
    ("bcdr", "auprc_benign"),
)


def score(experiment: str, epsilon: float, source: str, metric: str) -> Score | None:
    """What the paper reports, or None where it reports nothing of the kind."""
    row = ROWS.get((experiment, epsilon))
    if row is None or (source, metric) not in _COLUMNS:
        return None
    numbers = [float(word) for word in row.split()]
    place = 2 * _COLUMNS.index((source, metric))
    return Score(numbers[place], numbers[place + 1])


def curve(experiment: str, source: str, metric: str) -> list[tuple[float, Score]]:
    """The paper's (epsilon, score) points of one setup, by rising epsilon."""
    points = [(e, score(name, e, source, metric)) for name, e in ROWS if name == experiment]
    return sorted((e, s) for e, s in points if s is not None)


# --- Fig. 2 ---------------------------------------------------------------------------------------------------------

# (pair, metric and space): mean, deviation of the authors' sheet. FRD of frd-score v0 with their masks, N_real about
# 360, N_syn about 3,240; FID of other subsets than ours: beside ours, not for comparison (docs/gan.md).
DISTANCES: dict[tuple[tuple[str, str], str], Score] = {
    (("train", "train"), "fid inception"): Score(29.25, 0.82),
    (("synthetic", "synthetic"), "fid inception"): Score(20.90, 0.16),
    (("train", "synthetic"), "fid inception"): Score(57.99, 0.72),
    (("train", "external"), "fid inception"): Score(156.4, 14.3),
    (("train", "train"), "fid radimagenet"): Score(0.307, 0.013),
    (("synthetic", "synthetic"), "fid radimagenet"): Score(0.322, 0.012),
    (("train", "synthetic"), "fid radimagenet"): Score(0.812, 0.019),
    (("train", "external"), "fid radimagenet"): Score(3.88, 0.35),
    (("train", "train"), "frd radiomics"): Score(3.48, 0.35),
    (("synthetic", "synthetic"), "frd radiomics"): Score(0.575, 0.094),
    (("train", "synthetic"), "frd radiomics"): Score(18.12, 1.0),
    (("train", "external"), "frd radiomics"): Score(277.6, 39.0),
}
SLIPS = (
    "Deviations are those of the authors' sheet; three of the paper's are slips: ±1.43 for 14.31 (FID, real to BCDR), "
    "±.12 for .0123 and ±.19 for .0130 (FID RadImageNet)."
)


def distance(pair: tuple[str, str], metric: str, space: str, label: str) -> str:
    """The paper's distance in words, or nothing."""
    found = DISTANCES.get((pair, f"{metric} {space}")) if label == "all" else None
    return f"{found.mean:g} ± {found.std:g}" if found else ""
