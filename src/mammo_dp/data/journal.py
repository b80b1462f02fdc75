"""Cutting many images so that a kill at any moment costs only the images under way.

The main process alone writes: first the patches of an image, then one line of a journal. A line counts only if its
patches are there with the bytes it tells.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mammo_dp.artifacts import write_atomic
from mammo_dp.data.cutting import Cut, CutImage, Task, cut_image
from mammo_dp.data.patch_set import write_png
from mammo_dp.data.patches import Box
from mammo_dp.progress import track
from mammo_dp.workers import each, workers_for

CRASHED = "the process that read this image died twice: a damaged file, or too little memory"


def cut_all(
    tasks: Sequence[Task], *, journal: Path, path_of: Callable[[int], Path], workers: int | None
) -> Iterator[CutImage]:
    """What came of every task, in any order; the PNG of lesion n is at `path_of(n)`, and no longer in the Cut.

    Images that the journal tells of are not read again, but for those of which a lesion failed: what was wrong may
    have been mended.
    """
    known = _load(journal, path_of)
    todo = []
    for task in tasks:
        done = known.get(frozenset(number for number, _ in task.lesions))
        if done is None:
            todo.append(task)
        else:
            yield done
    results = each(cut_image, todo, workers=workers_for(workers, len(todo)))
    with journal.open("a") as file:
        for task, result in track(results, "patches", total=len(tasks), done=len(tasks) - len(todo)):
            if result is None:
                result = CutImage({number: CRASHED for number, _ in task.lesions})
            digests = {}
            for number, outcome in result.outcomes.items():
                if isinstance(outcome, Cut):
                    write_png(path_of(number), outcome.png)
                    digests[number] = hashlib.sha256(outcome.png).hexdigest()
            line = _to_dict(result, digests)
            file.write(json.dumps(line) + "\n")
            file.flush()
            yield _from_dict(line)


def _load(journal: Path, path_of: Callable[[int], Path]) -> dict[frozenset[int], CutImage]:
    """Finished images by the numbers of their lesions."""
    if not journal.exists():
        return {}
    known, whole = {}, []
    for text in journal.read_text().splitlines(keepends=True):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # cut short by a kill
        digests = {int(number): outcome.get("sha256") for number, outcome in line["outcomes"].items()}
        if all(digest and _has(path_of(number), digest) for number, digest in digests.items()):
            known[frozenset(digests)] = _from_dict(line)
            whole.append(text if text.endswith("\n") else text + "\n")
    write_atomic(journal, "".join(whole))
    return known


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _to_dict(image: CutImage, digests: dict[int, str]) -> dict[str, Any]:
    outcomes = {
        str(number): {"reason": outcome}
        if isinstance(outcome, str)
        else {
            "sha256": digests[number],
            "box": asdict(outcome.box),
            "outline": outcome.outline,
            "note": outcome.note,
        }
        for number, outcome in image.outcomes.items()
    }
    return {
        "sha256": image.sha256,
        "shape": list(image.shape),
        "thumbnail": image.thumbnail.hex(),
        "outcomes": outcomes,
    }


def _from_dict(line: dict[str, Any]) -> CutImage:
    outcomes: dict[int, Cut | str] = {}
    for number, outcome in line["outcomes"].items():
        outcomes[int(number)] = outcome.get("reason") or Cut(
            b"", Box(**outcome["box"]), outcome["outline"], outcome["note"]
        )
    height, width = line["shape"]
    return CutImage(outcomes, line["sha256"], (height, width), bytes.fromhex(line["thumbnail"]))
