"""The paper's numbers, wherever they are shown, against the page of facts that was read from paper and sheet."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mammo_dp.reporting import paper
from mammo_dp.reporting.paper import DISTANCES, ROWS, distance, score
from tests.conftest import shared

COLUMNS = (("cbis_ddsm", "auroc"), ("cbis_ddsm", "auprc_benign"), ("bcdr", "auroc"), ("bcdr", "auprc_benign"))
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def facts() -> str:
    path = shared() / "design/paper_facts.md"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    return path.read_text()


def test_table_1_is_the_papers(facts):
    """All 18 rows, 72 means and 72 deviations."""
    rows = re.findall(
        r"^\| (real|syn|synpre|real_syn|synpre_realft) \| ([\w, ]+) \| (.+) \|$", facts, re.MULTILINE
    )
    assert len(rows) == len(ROWS) == 18
    for experiment, budget, cells in rows:
        epsilon = float(budget.split(",")[-1])  # "inf, 6": pre-training without privacy, then 6
        for (source, metric), cell in zip(COLUMNS, cells.split("|"), strict=True):
            mean, deviation = (float(number) for number in cell.strip().split("±"))
            found = score(experiment, epsilon, source, metric)
            assert found == (mean, deviation), (experiment, epsilon, source, metric)


def stated(facts: str) -> dict[str, dict[tuple[str, str], str]]:
    """Metric and space -> (first, second) -> the words of the page, of Fig. 2 and the sheet."""
    text = facts[facts.index("## Synthetic image quality") :]
    places = {"real": "train", "syn": "synthetic", "BCDR": "external"}
    found: dict[str, dict[tuple[str, str], str]] = {}
    for name, key in (
        ("FID ImageNet", "fid inception"),
        ("FID RadImageNet", "fid radimagenet"),
        ("FRD", "frd radiomics"),
    ):
        for part in re.findall(rf"{name}:? ((?:(?:real|syn)-\w+\s[\d.]+(?:±[\d.]+)?[,;.]?\s*)+)", text):
            for first, second, value in re.findall(r"(real|syn)-(\w+)\s(\d*\.?\d+(?:±\d*\.?\d+)?)", part):
                found.setdefault(key, {})[places[first], places[second]] = value
    return found


def test_figure_2_is_the_sheets(facts):
    pages = stated(facts)
    assert sum(len(values) for values in pages.values()) == len(DISTANCES) == 12
    for (pair, key), found in DISTANCES.items():
        mean, _, deviation = pages[key][pair].partition("±")
        assert found.mean == float(mean), (pair, key)
        if deviation:
            assert found.std == pytest.approx(float(deviation)), (pair, key)
    # two deviations stand apart on the page
    assert "FRD std .35 (real-real), .094 (syn-syn)" in facts
    assert DISTANCES[("train", "train"), "frd radiomics"].std == 0.35
    assert DISTANCES[("synthetic", "synthetic"), "frd radiomics"].std == 0.094


def test_the_slips_are_the_ones_on_the_page(facts):
    (slips,) = re.findall(
        r"±([\d.]+), ±([\d.]+), ±([\d.]+) are slips for ([\d.]+), ([\d.]+), ([\d.]+\d)",
        facts.replace("\n", " "),
    )
    for number in slips:
        assert number in paper.SLIPS


def test_a_distance_in_words():
    assert distance(("train", "synthetic"), "frd", "radiomics", "all") == "18.12 ± 1"
    assert distance(("train", "synthetic"), "fid", "inception", "all") == "57.99 ± 0.72"
    assert distance(("train", "synthetic"), "fid", "inception", "benign") == ""
    assert distance(("train", "train"), "fid", "backbone", "all") == ""


def columns_of_the_paper() -> Iterator[tuple[str, str]]:
    """(page, number) of every cell below a heading that names the paper."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        heads: list[str] = []
        for line in page.read_text().splitlines():
            cells = (
                [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
            )
            if not cells:
                heads = []
            elif not heads:
                heads = cells
            else:
                for head, cell in zip(heads, cells, strict=False):
                    if re.search(r"(?<!`)\bpaper\b", head):  # `paper` is our recipe
                        yield from ((page.name, number) for number in re.findall(r"\d*\.\d+|\d+", cell))


def test_the_readmes_columns_are_the_papers_auroc_on_cbis_ddsm():
    """`paper: real` at each epsilon, and `paper: best`: the highest of the setups at that epsilon."""
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    (start,) = [number for number, line in enumerate(lines) if "paper: real" in line]
    heads = [cell.strip() for cell in lines[start].strip("|").split("|")]
    checked = 0
    for line in lines[start + 2 :]:
        cells = dict(zip(heads, (cell.strip() for cell in line.strip("|").split("|")), strict=False))
        if not re.fullmatch(r"\d+", cells.get("epsilon", "")):
            break
        epsilon = float(cells["epsilon"])
        of_all = [score(name, e, "cbis_ddsm", "auroc") for name, e in ROWS if e == epsilon]
        real = score("real", epsilon, "cbis_ddsm", "auroc")
        if real is not None and cells["paper: real"]:
            assert float(cells["paper: real"].split()[0]) == real.mean
            assert float(cells["paper: best"].split()[0]) == max(s.mean for s in of_all if s is not None)
            checked += 1
    assert checked >= 4


def test_numbers_that_a_page_calls_the_papers_are_on_the_page_of_facts(facts):
    """Every number in a column of README or docs/ whose head says paper. Control: another number is not there."""
    numbers = {float(n) for n in re.findall(r"\d*\.\d+|\d+", facts.replace(",", ""))}
    shown = list(columns_of_the_paper())
    assert {page for page, _ in shown} >= {"README.md", "gan.md"}
    for page, number in shown:
        assert float(number) in numbers, (page, number)
    assert 0.7423 not in numbers
