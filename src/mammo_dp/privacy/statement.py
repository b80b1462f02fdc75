"""The ledger in plain English: one paragraph that a reviewer or a data-protection officer can hold the authors to."""

from mammo_dp.privacy.ledger import FALSE_POSITIVE_RATE, GUESS, Account, Ledger, relation
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
OTHER_WORLD = {
    "add_remove": "without that {unit}",
    "zero_out": "with that {unit}'s data null",
    "replace": "with other data in that {unit}'s place",
}
SEEDED = (
    "the seed, 42 by default and part of a run's name, is no secret: whoever has a suspected data set can remove the "
    "noise, so a seeded run is for research and never a release"
)
NOT_A_RELEASE = (
    "Not a release: noise comes from a seed, which is no secret. With noise from the operating system "
    "(privacy.randomness=secure) the following holds."
)


def statement(ledger: Ledger) -> str:
    """One paragraph. Without private sizes if the ledger has none (`Ledger.for_release`)."""
    worst = ledger.headline
    parts = [_headline(ledger) if worst else NOTHING_SHAPED]
    if SEEDED in ledger.assumptions and any(event.mechanism for event in ledger.events):
        parts.insert(0, NOT_A_RELEASE)
    others = [account for account in ledger.accounts if account is not worst]
    parts += [_account(account, claimed=ledger.claimed) for account in others]
    if worst and worst.unlimited:
        parts += _own_mechanisms(ledger)
    if any(event.mechanism for event in ledger.events):
        parts.append(NEIGHBOURS[relation(ledger.events)].format(unit=ledger.claimed))
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
    if worst.epsilon is None:
        return (
            f"For each {UNIT[worst.unit]} of the {worst.cohort} set of {worst.study} the bound depends on the largest "
            "number of images of a patient, which is private."
        )
    if worst.unlimited:
        because = "; ".join(e.why for e in ledger.shaping(worst.study, worst.cohort) if e.mechanism is None)
        return (
            f"End to end there is no privacy guarantee (epsilon = infinity) for the {worst.cohort} patients of "
            f"{worst.study}: {because}."
        )
    world = OTHER_WORLD[relation(ledger.shaping(worst.study, worst.cohort))].format(unit=worst.unit)
    return (
        f"For each {UNIT[worst.unit]} of the {worst.cohort} set of {worst.study}, the released model is "
        f"({_number(worst.epsilon)}, {ledger.delta:g})-differentially private: every outcome has at most "
        f"e^{_number(worst.epsilon)} times the chance that it has {world}, plus {ledger.delta:g}. {_attack(worst)}"
    )


def _account(account: Account, *, claimed: str) -> str:
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
    replaced = (
        ": to change one image of a patient who stays is a replacement, which moves the sum up to twice as far"
        if (claimed, account.unit) == ("patient", "image")
        else ""
    )
    return f"For {who}: ({_number(account.epsilon)}, {account.delta:g}){images}{replaced}."


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
    if account.attack is None or account.advantage is None or account.guess is None:
        return ""
    mu = ""
    if account.mu is not None:
        mu = f"It is {_number(account.mu)}-GDP (Gaussian differential privacy), which says the same at every delta. "
    return mu + (
        f"An attacker who accepts {100 * FALSE_POSITIVE_RATE:g} % false alarms recognises a member in at most "
        f"{rounded_up(100 * account.attack, digits=2)} % of cases; true positives exceed false ones by at most "
        f"{rounded_up(100 * account.advantage, digits=2)} %; and a guess about a member with a chance of 1 in "
        f"{1 / GUESS:,.0f} succeeds in at most {rounded_up(100 * account.guess, digits=2)} % of cases."
    )


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _number(epsilon: float | None) -> str:
    return "unknown" if epsilon is None else rounded_up(epsilon)
