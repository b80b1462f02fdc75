"""The report in a real browser: nothing is asked for, nothing is broken, and it fits a phone."""

import base64
import html
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pandas as pd
import pytest

from mammo_dp.reporting import paper
from mammo_dp.reporting.html import Figure2, page
from mammo_dp.reporting.pairs import pairs
from mammo_dp.reporting.table1 import studies
from tests.reporting.test_table1 import predictions, run, scores_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium")
PHONE = 390  # px

# The page stands in a frame as wide as a phone: what it holds can be asked from outside, beyond its own rules.
FRAME = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: 800px }}</style>
<body><iframe id="f" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>
document.getElementById("f").onload = () => setTimeout(() => {{
  const d = document.getElementById("f").contentDocument;
  d.querySelectorAll("details").forEach(x => x.open = true);
  const drawn = x => x.getBoundingClientRect().height > 10 && x.getBoundingClientRect().width > 10;
  document.getElementById("found").textContent = "FOUND" + JSON.stringify({{
    width: d.documentElement.scrollWidth,
    rows: [...d.querySelectorAll("table.table1 tbody tr")].map(r => [...r.cells].map(c => c.textContent.trim())),
    images: [...d.images].map(i => i.complete && i.naturalWidth > 0 && drawn(i)),
    figures: [...d.querySelectorAll("figure > svg")].map(drawn),
    dark: getComputedStyle(d.documentElement).colorScheme,
    loaded: document.getElementById("f").contentWindow.performance.getEntriesByType("resource").map(e => e.name),
  }}) + "END";
}}, 500);
</script></body>"""


def seen(text: str, tmp_path, *, width: int = PHONE):
    """What the browser makes of a page, and what it has written to its console."""
    path = tmp_path / "frame.html"
    path.write_text(FRAME.format(width=width, page=html.escape(text)))
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--enable-logging=stderr", "--virtual-time-budget=8000", f"--user-data-dir={tmp_path}/profile", "--dump-dom",
    )  # fmt: skip
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"file://{path}"], capture_output=True, text=True, timeout=180, check=True
    )
    found = re.search(r"FOUND(\{.*?\})END", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), [
        line for line in done.stderr.splitlines() if "CONSOLE" in line
    ]


def whole_report() -> str:
    runs = [
        run(seed, 0, epsilon, experiment=experiment, setting=f"{experiment} {epsilon}", headline=epsilon,
            test={s: scores_of(seed + n) for n, s in enumerate(("cbis_ddsm", "bcdr"))},
            predictions=pd.concat([predictions(seed + n, s) for n, s in enumerate(("cbis_ddsm", "bcdr"))]))
        for experiment, epsilon in paper.ROWS
        for seed in (42, 43, 44)
    ]  # fmt: skip
    found = studies(runs)
    png = cv2.imencode(".png", np.arange(10000, dtype=np.uint8).reshape(100, 100))[1].tobytes()
    figure = Figure2(
        "evaluation", png, pd.DataFrame({"first": ["train"], "second": ["synthetic"], "mean": ["1.5"]})
    )
    return page(found, provenance={"code": "x" * 200}, pairs=[pairs(s) for s in found], figure2=[figure])


@needs_browser
def test_the_whole_report_on_a_phone(tmp_path):
    text = whole_report()
    assert base64.b64encode(b"\x89PNG").decode()[:5] in text
    found, console = seen(text, tmp_path)
    assert console == []
    assert found["loaded"] == []
    assert found["width"] <= PHONE
    assert len(found["rows"]) == 18
    assert all(all(cells[:-1]) for cells in found["rows"])
    assert found["images"] == [True]
    assert len(found["figures"]) == 7  # privacy against utility, and curves at six budgets
    assert all(found["figures"])
    assert found["dark"] == "light dark"


@needs_browser
def test_the_browser_would_have_told(tmp_path):
    """Negative control: a page that loads something, is too wide and has a broken image."""
    bad = whole_report().replace(
        "<h1>", '<img src="https://example.org/x.png"><script>1</script><p style="width:900px">wide</p><h1>'
    )
    found, console = seen(bad, tmp_path)
    assert console
    assert found["width"] > PHONE
    assert False in found["images"]
