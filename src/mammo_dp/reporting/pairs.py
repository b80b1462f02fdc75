"""Differences between any two rows of a study, on the same resampled patients."""

import itertools

import pandas as pd

from mammo_dp.metrics.bootstrap import paired_difference
from mammo_dp.metrics.classification import IN_TABLE
from mammo_dp.reporting.table1 import Study


def pairs(study: Study) -> pd.DataFrame:
    """One line a pair of rows, test set and metric: mean over seeds of the first less that of the second.

    Interval and p value are over patients, who are the same in both rows; p values are not corrected for their number.
    """
    lines = []
    for one, other in itertools.combinations(study.rows, 2):
        for source in study.sources:
            for metric in IN_TABLE:
                first, second = one.score(source, metric), other.score(source, metric)
                drawn = [row.resampled.get(source, {}).get(metric) for row in (one, other)]
                if first is None or second is None or drawn[0] is None or drawn[1] is None:
                    continue
                found = paired_difference(drawn[0], drawn[1], seen=first.mean - second.mean)
                lines.append(
                    {
                        "first": one.setup, "first_epsilon": one.epsilon, "first_privacy": one.privacy,
                        "second": other.setup, "second_epsilon": other.epsilon, "second_privacy": other.privacy,
                        "test_set": source, "metric": metric, **found,
                    }
                )  # fmt: skip
    return pd.DataFrame(lines)
