import pytest

from mammo_dp.reporting import paper
from mammo_dp.reporting.html import page
from mammo_dp.reporting.table1 import Run, markdown, numbers, studies


def run(seed: int, auroc: float, epsilon: float = 6.0, **changes) -> Run:
    test = {"cbis_ddsm": {"auroc": auroc, "auprc_benign": 0.7}}
    values = {
        "study": "s", "title": "t", "experiment": "real", "privacy": "p", "test": test, "headline": epsilon,
        "setting": "x", "statement": "It holds.", "ledger": {},
    } | changes  # fmt: skip
    return Run(epsilon=epsilon, seed=seed, **values)


def test_mean_and_population_std_over_seeds():
    (study,) = studies([run(0, 0.60), run(1, 0.66), run(2, 0.66)])
    assert study.rows[0].score("cbis_ddsm", "auroc") == pytest.approx((0.64, 0.0008**0.5, 3))
    assert study.rows[0].score("bcdr", "auroc") is None
    table = numbers([study])
    assert table["n"].tolist() == [3, 3]
    assert table["paper_mean"].tolist() == [0.572, 0.679]


def test_rows_are_ordered_as_in_the_paper():
    (study,) = studies([run(0, 0.6, 60), run(0, 0.6, 6), run(0, 0.6, float("inf"))])
    assert [row.epsilon for row in study.rows] == [float("inf"), 6, 60]


def test_development_set_comes_before_the_external_one():
    scores = {"auroc": 0.6, "auprc_benign": 0.7}
    (study,) = studies([run(0, 0.6, test={name: scores for name in ("another", "bcdr", "cbis_ddsm")})])
    assert study.sources == ("cbis_ddsm", "bcdr", "another")


def test_what_differs_in_more_than_privacy_is_another_table():
    assert len(studies([run(0, 0.6), run(0, 0.7, study="other", title="u")])) == 2
    for change in ({"privacy": "another delta"}, {"setting": "another weight"}):
        (study,) = studies([run(0, 0.6), run(0, 0.7, **change)])
        assert len(study.rows) == 2


def test_paper_numbers():
    """Spot checks against the published table."""
    assert paper.score("real", float("inf"), "cbis_ddsm", "auroc") == (0.778, 0.001)
    assert paper.score("synpre_realft", 60, "bcdr", "auprc_benign") == (0.697, 0.004)
    assert paper.score("real", 60, "cbis_ddsm", "auprc_benign") == (0.721, 0.011)
    assert paper.score("real", 3, "cbis_ddsm", "auroc") is None
    assert [e for e, _ in paper.curve("real", "bcdr", "auroc")] == [1, 6, 12, 20, 60, float("inf")]
    assert len(paper.ROWS) == 18


def test_page_is_self_contained_and_escapes():
    found = studies([run(0, 0.6, title="<script>x</script>"), run(1, 0.7, title="<script>x</script>")])
    text = page(found, provenance={"a": "b"})
    assert "<script>" not in text
    assert 'src="' not in text
    assert "<svg" in text
    assert ".650 ± .050" in text
    assert ".650 ± .050" in markdown(found)
