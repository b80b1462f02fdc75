"""The ledger in plain English: one paragraph that a reviewer or a data-protection officer can hold the authors to."""

from mammo_dp.privacy.ledger import FALSE_POSITIVE_RATE, Account, Ledger
from mammo_dp.rounding import rounded_up

UNIT = {"image": "image (one patch; a mammogram with several masses gives several)", "patient": "patient"}
MEMBERSHIP = (
    "the bound covers membership. Whether somebody known to have taken part is benign or malignant is a replacement, "
    "which it covers only at a larger epsilon."
)
NEIGHBOURS = {
    "add_remove": f"Two data sets are neighbours if one {{unit}} is there or not: {MEMBERSHIP}",
    "zero_out": (
        f"Two data sets are neighbours if one {{unit}} is null in one of them, their number being public: {MEMBERSHIP}"
    ),
    "replace": (
        "Two data sets are neighbours if one {unit} has other content: the bound covers the pixels and the diagnosis "
        "of somebody known to have taken part."
    ),
}


NOTHING_SHAPED = (
    "Nothing here was estimated from private images; those that it holds are for their owner alone."
)


def statement(ledger: Ledger) -> str:
    """One paragraph. Without private sizes if the ledger has none (`Ledger.for_release`)."""
    worst = ledger.headline
    parts = [_headline(ledger) if worst else NOTHING_SHAPED]
    parts += [_account(account) for account in ledger.accounts if account is not worst]
    if worst and worst.unlimited:
        parts += _own_mechanisms(ledger)
    parts += [NEIGHBOURS[kind].format(unit=ledger.claimed) for kind in _adjacencies(ledger)]
    parts += _outside(ledger)
    if ledger.assumptions:
        parts.append(f"All this rests on: {'; '.join(ledger.assumptions)}.")
    if worst and not worst.unlimited:
        parts.append(
            "Every further release that saw the same patients, another seed included, adds to what is revealed."
        )
    return " ".join(parts)


def _headline(ledger: Ledger) -> str:
    worst = ledger.headline
    assert worst is not None
    if worst.unlimited:
        because = "; ".join(e.why for e in ledger.shaping(worst.study, worst.cohort) if e.mechanism is None)
        return (
            f"End to end there is no privacy guarantee (epsilon = infinity) for the {worst.cohort} patients of "
            f"{worst.study}: {because}."
        )
    return (
        f"For each {UNIT[worst.unit]} of the {worst.cohort} set of {worst.study}, the released model is "
        f"({_number(worst.epsilon)}, {ledger.delta:g})-differentially private: whether that {worst.unit}'s data were "
        f"used changes the chance of any outcome by at most a factor e^{_number(worst.epsilon)}, but for a chance of "
        f"{ledger.delta:g}. {_attack(worst)}"
    )


def _account(account: Account) -> str:
    who = f"each {account.unit} of the {account.cohort} set of {account.study}"
    if account.unlimited:
        return f"For {who}: no guarantee ({', '.join(account.unlimited)})."
    if account.epsilon is None:
        return (
            f"For {who} the bound is weaker, since a patient may have several images; it grows faster than in "
            "proportion to their number."
        )
    images = (
        f", for the patient with the most images ({account.images_per_patient})"
        if account.images_per_patient
        else ""
    )
    return f"For {who}: ({_number(account.epsilon)}, {account.delta:g}){images}."


def _own_mechanisms(ledger: Ledger) -> list[str]:
    """What each mechanism by itself satisfies, where something else breaks the whole."""
    parts = [
        f"By itself, the {event.what} is ({_number(ledger.spent(event))}, {ledger.delta:g})-differentially "
        f"private for each {event.unit} of the {event.cohort} set."
        for event in ledger.events
        if event.mechanism is not None
    ]
    return list(dict.fromkeys(parts))


def _outside(ledger: Ledger) -> list[str]:
    published = list(dict.fromkeys(event.cohort for event in ledger.published))
    parts = []
    if published:
        parts.append(
            f"Not protected are the {_listed(published)} patients, whose images enter published metrics, intervals "
            "and predictions."
        )
    internal = list(dict.fromkeys(event.what for event in ledger.internal))
    if internal:
        parts.append(f"Internal, must not be released: {', '.join(internal)}.")
    return parts


def _attack(account: Account) -> str:
    if account.attack is None:
        return ""
    return (
        f"An attacker who accepts {100 * FALSE_POSITIVE_RATE:g} % false alarms recognises a member in at most "
        f"{rounded_up(100 * account.attack, digits=2)} % of cases."
    )


def _adjacencies(ledger: Ledger) -> list[str]:
    return list(dict.fromkeys(e.adjacency for e in ledger.events if e.mechanism is not None))


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _number(epsilon: float | None) -> str:
    return "unknown" if epsilon is None else rounded_up(epsilon)
