import math

import numpy as np
import pandas as pd
import pytest

from mammo_dp.metrics.performance import performance
from mammo_dp.reporting import paper
from mammo_dp.reporting.collect import Run
from mammo_dp.reporting.details import details
from mammo_dp.reporting.html import page
from mammo_dp.reporting.pairs import pairs
from mammo_dp.reporting.table1 import against_paper, frame, latex, markdown, numbers, short, studies

COLUMNS = ("view", "density", "subtlety", "acquisition", "abnormality")


def predictions(seed: int, source: str = "cbis_ddsm", *, strength: float = 0.6) -> pd.DataFrame:
    """Scores of 60 patients with two images each; the patients are the same whatever the seed."""
    malignant = np.repeat(np.arange(60) % 2, 2)
    score = strength * malignant + np.random.default_rng(seed).normal(size=120)
    return pd.DataFrame(
        {
            "patch": [f"{source}/{n}.png" for n in range(120)],
            "source": source,
            "split": "test",
            "patient": np.repeat([f"P{n}" for n in range(60)], 2),
            "lesion": np.repeat([f"L{n}" for n in range(60)], 2),
            "malignant": malignant,
            "p_malignant": 1 / (1 + np.exp(-score)),
        }
    )


def scores_of(seed: int, source: str = "cbis_ddsm", *, strength: float = 0.6) -> dict:
    table = predictions(seed, source, strength=strength)
    index = table.assign(**dict.fromkeys(COLUMNS, "")).assign(view=["CC", "MLO"] * 60)
    return performance(index, table["patient"].to_numpy(str), table["p_malignant"].to_numpy())


def run(seed: int, auroc: float, epsilon: float = 6.0, **changes) -> Run:
    test = {"cbis_ddsm": {"auroc": auroc, "auprc_benign": 0.7}}
    values = {
        "comparison_key": "b", "recipe": "r", "headless_recipe": "l", "title": "t", "experiment": "real",
        "privacy": "p", "test": test, "headline": epsilon, "setting": "x", "statement": "It holds.", "ledger": {},
    } | changes  # fmt: skip
    return Run(epsilon=epsilon, seed=seed, **values)


def test_mean_and_population_std_over_seeds():
    (study,) = studies([run(0, 0.60), run(1, 0.66), run(2, 0.66)])
    score = study.rows[0].score("cbis_ddsm", "auroc")
    assert (score.mean, score.population_std, score.sample_std, score.seeds) == pytest.approx(
        (0.64, 0.0008**0.5, 0.0012**0.5, 3)
    )
    assert score.words == ".640 ± .028"
    (single,) = studies([run(0, 0.60)])
    assert single.rows[0].score("cbis_ddsm", "auroc").words == ".600"  # one seed has no deviation
    assert study.rows[0].score("bcdr", "auroc") is None
    table = numbers([study])
    assert table["n_seeds"].tolist() == [3, 3]
    assert table["paper_mean"].tolist() == [0.572, 0.679]


def test_rows_are_ordered_as_in_the_paper():
    (study,) = studies([run(0, 0.6, 60), run(0, 0.6, 6), run(0, 0.6, float("inf"))])
    assert [row.epsilon for row in study.rows] == [float("inf"), 6, 60]


def test_development_set_comes_before_the_external_one():
    scores = {"auroc": 0.6, "auprc_benign": 0.7}
    (study,) = studies([run(0, 0.6, test={name: scores for name in ("another", "bcdr", "cbis_ddsm")})])
    assert study.sources == ("cbis_ddsm", "bcdr", "another")


def test_what_differs_in_more_than_privacy_is_another_table():
    assert len(studies([run(0, 0.6), run(0, 0.7, recipe="other", title="u")])) == 2
    assert len(studies([run(0, 0.6), run(0, 0.7, comparison_key="other", title="u")])) == 2
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


def test_synpre_and_what_follows_it_join_the_tables_that_they_fit_in():
    """synpre has no recipe of its own; synpre_realft has that of its table but for the head."""
    synpre = run(0, 0.6, math.inf, experiment="synpre", recipe=None, headless_recipe=None, setting="s")
    tuned = run(0, 0.6, experiment="synpre_realft", recipe=None, headless_recipe="l", setting="f")
    other = run(0, 0.6, recipe="r2", headless_recipe="l2", title="u")
    found = studies([run(0, 0.6), other, synpre, tuned])
    assert [[row.experiment for row in study.rows] for study in found] == [
        ["synpre", "real", "synpre_realft"], ["synpre", "real"],
    ]  # fmt: skip
    alone = studies([synpre])
    assert [row.experiment for row in alone[0].rows] == ["synpre"]
    elsewhere = studies([run(0, 0.6, comparison_key="other"), synpre, tuned])
    assert sorted(len(study.rows) for study in elsewhere) == [1, 2]


def full(seeds=(0, 1), **changes):
    return [
        run(seed, 0, test={"cbis_ddsm": scores_of(seed, **changes)}, predictions=predictions(seed, **changes))
        for seed in seeds
    ]


def test_intervals_are_of_the_mean_over_seeds_and_of_patients():
    (one,) = studies(full(seeds=(0,)))
    (two,) = studies(full(seeds=(0, 1)))
    narrow, wide = (s.rows[0].score("cbis_ddsm", "auroc") for s in (two, one))
    assert wide.interval == pytest.approx(
        one.rows[0].runs[0].test["cbis_ddsm"]["intervals"]["auroc"], abs=1e-6
    )
    assert narrow.interval[0] < narrow.mean < narrow.interval[1]
    assert (
        narrow.interval[1] - narrow.interval[0] < wide.interval[1] - wide.interval[0]
    )  # their noise is independent


def test_the_marker_stands_where_the_interval_excludes_the_paper():
    (study,) = studies(full(strength=2.0))
    score = study.rows[0].score("cbis_ddsm", "auroc")
    assert against_paper(score, paper.Score(0.572, 0.03)).endswith("▲")
    assert against_paper(score, paper.Score(score.mean - 0.001, 0.03)) == "+.001"
    assert against_paper(score, paper.Score(0.999, 0.0)).startswith("−")
    assert against_paper(score, paper.Score(0.999, 0.0)).endswith("▼")
    assert "ours − paper, CBIS-DDSM AUROC" in frame(study).columns


def test_random_weights_are_never_set_beside_the_paper():
    (study,) = studies([run(0, 0.6, beside_paper=False)])
    assert not study.has_paper
    assert not any("paper" in column for column in frame(study).columns)
    assert numbers([study])["paper_mean"].isna().all()


def test_what_is_missing_is_said():
    (study,) = studies([run(0, 0.6), run(1, 0.6), run(0, 0.6, 60.0, setting="y")])
    assert "real, epsilon 60: 1/2 seeds" in study.missing
    assert "synpre, epsilon ∞" in study.missing
    assert len(study.missing) == 1 + 16


def test_pairs_have_every_two_rows_and_the_same_row_differs_in_nothing():
    strong = [
        run(r.seed, 0, 60.0, setting="y", test={"cbis_ddsm": scores_of(r.seed, strength=2.0)},
            predictions=predictions(r.seed, strength=2.0))
        for r in full()
    ]  # fmt: skip
    (study,) = studies([*full(), *strong])
    table = pairs(study)
    assert len(table) == 2
    assert (table["difference"] < -0.1).all()
    assert (table["high"] < 0).all()
    (same,) = studies(
        [*full(), *[run(r.seed, 0, setting="z", test=r.test, predictions=r.predictions) for r in full()]]
    )
    assert pairs(same)[["difference", "low", "high"]].abs().to_numpy().max() == 0


def test_details_have_levels_and_subgroups():
    (study,) = studies(full())
    table = details(study).set_index(["of", "value"])
    assert set(table.index) == {
        ("level", "patch"),
        ("level", "lesion"),
        ("level", "patient"),
        ("view", "CC"),
        ("view", "MLO"),
    }
    assert table.loc[("level", "patient"), "n"] == 60
    assert table.loc[("view", "CC"), "n"] == 60
    assert (table["auroc_low"] < table["auroc"]).all()


def test_latex_is_a_table_of_all_rows():
    text = latex(studies([run(0, 0.6, float("inf")), run(0, 0.6, experiment="real_syn", setting="y")]))
    assert text.count(r"\\") == 3
    assert r"real\_syn & 6 & .600 [.617]" in text
    assert r"$\infty$" in text


def test_short_numbers():
    assert [short(v) for v in (0.5, 1.0, 0.0004, -0.25)] == [".500", "1.000", ".000", "-.250"]


def test_footnotes_of_the_papers_slips():
    assert paper.score("real", 60, "cbis_ddsm", "auprc_benign").std == 0.011
    assert paper.score("synpre_realft", 1, "bcdr", "auprc_benign").std == 0.013
    rows = [
        run(0, 0.6, 60.0),
        run(0, 0.6, math.inf, experiment="synpre", recipe=None, headless_recipe=None),
    ]
    text = page(studies(rows), provenance={})
    assert "ᵃ" in text
    assert "ᶜ" in text
    assert paper.ERRATA["b"].replace("'", "&#39;") in text


def test_rows_of_one_setup_are_told_apart_wherever_they_are_named():
    """Two units of privacy at two budgets: each has its number at both, and the other setup needs none."""
    rows = [
        run(0, 0.6, epsilon, privacy=unit, setting=f"{unit} {epsilon}")
        for epsilon in (6.0, 60.0)
        for unit in ("image level", "patient level")
    ]
    (study,) = studies([*rows, run(0, 0.6, experiment="real_syn", setting="other")])
    assert {(row.privacy, row.epsilon): row.setup for row in study.rows if row.experiment == "real"} == {
        ("image level", 6.0): "real [1]", ("image level", 60.0): "real [1]",
        ("patient level", 6.0): "real [2]", ("patient level", 60.0): "real [2]",
    }  # fmt: skip
    assert [row.setup for row in study.rows if row.experiment == "real_syn"] == ["real_syn"]
    assert frame(study)["setup"].nunique() == 3
    assert "real [2]" in latex([study])
    again = [run(0, 0.6, setting=name) for name in ("a", "b")]  # the same words, other settings
    assert sorted(row.setup for row in studies(again)[0].rows) == ["real [1]", "real [2]"]
