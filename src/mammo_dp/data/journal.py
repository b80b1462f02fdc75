"""Cutting many images so that a kill at any moment costs only the images under way.

The main process alone writes: first the patches of an image, then one line of a journal. A line counts only if its
patches are there with the bytes it tells.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mammo_dp.data.cutting import CutImage, Place, Task, cut_image
from mammo_dp.data.patch_set import write_png
from mammo_dp.data.patches import Box
from mammo_dp.engine.progress import track
from mammo_dp.engine.workers import each, workers_for
from mammo_dp.files import sha256, write_atomic

CRASHED = "worker crashed on this image twice: a damaged file, or too little memory"


def cut_all(
    tasks: Sequence[Task], *, journal: Path, path_of: Callable[[int], Path], workers: int | None
) -> Iterator[CutImage]:
    """What came of every task, in any order, without the PNGs: that of lesion n is written to `path_of(n)`.

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
        for task, result in track(results, "images", total=len(tasks), done=len(tasks) - len(todo)):
            if result is None:
                result = CutImage({number: CRASHED for number, _ in task.lesions})
            for number, png in result.pngs.items():
                write_png(path_of(number), png)
            file.write(_to_line(result))
            file.flush()
            yield replace(result, pngs={})


def _load(journal: Path, path_of: Callable[[int], Path]) -> dict[frozenset[int], CutImage]:
    """Images of which every lesion has its patch, by the numbers of their lesions."""
    if not journal.exists():
        return {}
    known, whole = {}, []
    for line in journal.read_text().splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut short by a kill
        digests = {int(number): digest for number, digest in content["pngs"].items()}
        image = _from_dict(content)
        if image.outcomes.keys() == digests.keys() and all(_has(path_of(n), d) for n, d in digests.items()):
            known[frozenset(digests)] = image
            whole.append(line + "\n")
    write_atomic(journal, "".join(whole))
    return known


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _to_line(image: CutImage) -> str:
    content = asdict(image) | {
        "thumbnail": image.thumbnail.hex(),
        "pngs": {number: hashlib.sha256(png).hexdigest() for number, png in image.pngs.items()},
    }
    return json.dumps(content) + "\n"


def _from_dict(content: dict[str, Any]) -> CutImage:
    outcomes = {
        int(number): place if isinstance(place, str) else Place(**{**place, "box": Box(**place["box"])})
        for number, place in content["outcomes"].items()
    }
    height, width = content["shape"]
    thumbnail = bytes.fromhex(content["thumbnail"])
    return CutImage(outcomes, {}, content["sha256"], (height, width), thumbnail)
