"""Auditing with one training run: lower bounds from how many canaries were guessed right.

Each of m canaries is in the training set or not, by a fair coin. The attacker calls the k highest scores members
and the k lowest others, and abstains from the rest (Steinke, Nasr, Jagielski 2023). Two readings: for any (epsilon,
delta)-DP training (their Thm. 5.2), and for mu-GDP training, which is tighter (Mahloujifar, Melis, Chaudhuri 2024,
"Auditing f-differential privacy in one run").
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from mammo_dp.privacy.gaussian import root

LEAST_GUESSES = 10
LARGEST = 200.0  # epsilon or mu beyond which no number of canaries can tell


def p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The most likely that (epsilon, delta)-DP makes `correct` or more right guesses out of `guesses`.

    P[B >= v] + 2 m delta max_i P[v - i <= B < v] / i over i = 1..v, with B ~ Bin(guesses, e^eps / (1 + e^eps)),
    m canaries, v right guesses; at most 1.
    """
    if correct == 0:
        return 1.0
    right = 1 / (1 + np.exp(-epsilon))
    p = float(binom.sf(correct - 1, guesses, right))
    if delta:
        below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))  # P[v - i <= B < v]
        p += 2 * canaries * delta * float((below / np.arange(1, correct + 1)).max())
    return min(p, 1.0)


def contradicts_mu(*, canaries: int, guesses: int, correct: int, mu: float, alpha: float) -> bool:
    """Whether mu-GDP makes so many right guesses with a probability below alpha.

    If it were alpha or more, a recursion over the number of right guesses shows how much probability all of them need
    at least; more than there is, guesses / canaries, is a contradiction.
    """
    right, wrong = alpha * correct / canaries, alpha * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        needed = max(wrong, float(ndtr(ndtri(min(right, 1.0)) - mu)))
        if needed == wrong:  # nothing changes any more
            break
        right, wrong = right + i / (guesses - i) * (needed - wrong), needed
    return right + wrong > guesses / canaries


def one_run_epsilon(in_scores: np.ndarray, out_scores: np.ndarray, *, alpha: float, delta: float) -> float:
    """Lower bound of epsilon at `delta`, the best over numbers of guesses, each tested at alpha over their number.

    in_scores, out_scores: (n,) and (k,), higher for likelier members.
    """
    canaries = len(in_scores) + len(out_scores)

    def contradicted(guesses: int, correct: int, each: float) -> Callable[[float], bool]:
        given = {"canaries": canaries, "guesses": guesses, "correct": correct, "delta": delta}
        return lambda epsilon: p_value(epsilon=epsilon, **given) < each  # type: ignore[arg-type]

    return _best(in_scores, out_scores, alpha, contradicted)


def one_run_mu(in_scores: np.ndarray, out_scores: np.ndarray, *, alpha: float) -> float:
    """Lower bound of mu, likewise, where training is known to be mu-GDP for some mu."""
    canaries = len(in_scores) + len(out_scores)

    def contradicted(guesses: int, correct: int, each: float) -> Callable[[float], bool]:
        given = {"canaries": canaries, "guesses": guesses, "correct": correct, "alpha": each}
        return lambda mu: contradicts_mu(mu=mu, **given)  # type: ignore[arg-type]

    return _best(in_scores, out_scores, alpha, contradicted)


def _best(
    in_scores: np.ndarray,
    out_scores: np.ndarray,
    alpha: float,
    contradicted: Callable[[int, int, float], Callable[[float], bool]],
) -> float:
    best, choices = 0.0, list(guesses_of(in_scores, out_scores))
    for guesses, correct in choices:
        test = contradicted(guesses, correct, alpha / len(choices))
        if not test(best + 1e-9):
            continue
        if test(LARGEST):
            return LARGEST
        high = max(2 * best, 1.0)
        while test(high):
            best, high = high, 2 * high
        best = root(lambda value, t=test: 1.0 if t(value) else -1.0, best + 1e-9, high, xtol=1e-6)
    return best


def guesses_of(in_scores: np.ndarray, out_scores: np.ndarray) -> Iterator[tuple[int, int]]:
    """Guesses and how many are right: all canaries, then the half with the most extreme scores, the quarter, ...

    The numbers are settled without looking at who is a member. Ties are cut by position, which is as blind.
    """
    scores = np.concatenate([in_scores, out_scores])
    members = np.arange(len(scores)) < len(in_scores)
    mixed = np.random.default_rng(0).permutation(len(scores))
    order = mixed[np.argsort(scores[mixed], kind="stable")]
    side = len(scores) // 2
    while 2 * side >= LEAST_GUESSES:
        correct = int(members[order[len(order) - side :]].sum() + (~members[order[:side]]).sum())
        yield 2 * side, correct
        side //= 2
