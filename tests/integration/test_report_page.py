"""report.html as a reader sees it: figures, names, colors, samples, and the layout in a browser."""
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from harness import Daemon, SmallData, run_ok  # noqa: E402
from report_page import as_json, check_page, report, study, validations_of  # noqa: E402,F401
from study_folder import make_study  # noqa: E402


def test_samples_with_pictures(tmp_path):
    """Pictures and raw captions come from the daemon, and only for the version that the study was run on."""
    from PIL import Image
    import base64
    with Daemon() as daemon:
        data = SmallData(tmp_path / "data", train=24, val=9)
        data.add(daemon)
        version = re.search(r"version +([0-9a-f]{64})", daemon.prepctl_ok("show", "small").stdout).group(1)
        folder = tmp_path / "s"
        make_study(folder, {"none": 0, "a": 0.1, "b": -0.1}, folds=2, seeds=(0, 1), pictures=33, captions=1, data="small", version=version)
        run_ok("trainer", "report", folder, "--samples", "2", *daemon.at())
        words = check_page(folder)
        text = (folder / "report.html").read_text()
        found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"></?.*?<q>(.*?)</q>.*?samples (\d+), (\d+)', text, re.S)
        assert len(found) >= 4 and "not shown" not in words
        rows = [line.split("\t") for line in daemon.prepctl_ok("samples", "small", *range(33)).stdout.splitlines()]
        for jpeg, caption, picture, sample in found:
            assert caption == rows[int(sample)][5]
            got = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg))).convert("RGB"), dtype=float)
            want = np.asarray(Image.open(rows[int(picture)][4]).convert("RGB").resize(got.shape[1::-1], Image.BILINEAR), dtype=float)
            assert np.abs(got - want).mean() < 12, f"picture {picture} is another one"
        make_study(folder, {"none": 0, "a": 0.1}, folds=2, seeds=(0,), pictures=33, captions=1, data="small", version="0" * 64)
        run_ok("trainer", "report", folder, *daemon.at())
        assert "another version" in check_page(folder)
    run_ok("trainer", "report", folder, "--socket", tmp_path / "gone.sock")
    assert "no preprocessd" in check_page(folder)


def test_validations_every_few_epochs(tmp_path):
    """--eval-every N may leave most epochs without one; the line goes from one to the next, and a single one is a point."""
    for name, kept in (("some", (2, 5)), ("one", (5,))):
        make_study(tmp_path / name, {"none": 0, "a": 0.5}, folds=2, seeds=(0, 1), pictures=60, epochs=6)
        for path in (tmp_path / name).glob("runs/*/*/metrics.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["split"] == "train" or line["epoch"] in kept))
        report(tmp_path / name)
        check_page(tmp_path / name)
        paths, dots, ticks = validations_of(tmp_path / name)
        assert all(row == [0, 2, 4, 6] for row in ticks), ticks
        # Two arms, accuracy and loss: a validation after the third epoch stands at 3.
        assert dots == [[epoch + 1 for epoch in kept]] * 4 and paths == ([[3, 6]] * 4 if len(kept) == 2 else [])


def test_one_epoch(tmp_path):
    """Nothing but the end of one epoch: each panel has marks that can be seen, beside the axis."""
    make_study(tmp_path / "s", {"none": 0, "a": 0.5}, folds=1, seeds=(0,), pictures=30, epochs=1)
    report(tmp_path / "s")
    check_page(tmp_path / "s")
    page = (tmp_path / "s" / "report.html").read_text()
    paths, dots, ticks = validations_of(tmp_path / "s")
    assert paths == [] and dots == [[1]] * 4 and ticks == [[0, 1]] * 4
    assert page.count('class="dot s1 dash"') == 4 and page.count('class="dot basel"') == 2 and 'h0"' not in page


def test_validations_within_an_epoch(tmp_path):
    """--eval-every may validate within an epoch, also where no second epoch says how long one is: every validation is there, in its place."""
    for epochs, told in ((2, False), (1, True), (1, False)):
        make_study(tmp_path / "s", {"none": 0, "a": 0.5}, folds=2, seeds=(0, 1), pictures=60, epochs=epochs)
        for path in (tmp_path / "s").glob("runs/*/*/metrics.jsonl"):
            lines = []
            for line in map(json.loads, path.read_text().splitlines()):
                if line["split"] == "train":
                    lines.append(line)
                    if line["step"] % 2 == 1:
                        lines.append({**line, "split": "val"})
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            if told:
                (path.parent / "run.json").write_text('{"steps_per_epoch": 10}')
        report(tmp_path / "s")
        want = [0.5, 1, 1.5, 2] if epochs == 2 else [0.2, 0.4] if told else [0.5, 1]
        paths, dots, _ = validations_of(tmp_path / "s")
        assert paths == [want] * 4 and dots == [want] * 4, (epochs, told)
        # By epoch there is one value, of the last.
        assert len(as_json(tmp_path / "s")["arms"][0]["curves"]["val_loss"]["mean"]) == epochs


def test_names_break_where_terms_end(study, tmp_path):
    """Not within a word; and titles of figures are whole."""
    name = "dropout+l2+adv_target=feat"
    make_study(tmp_path / "s", {"none": 0, name: 0.3}, folds=2, seeds=(0, 1), pictures=40)
    report(tmp_path / "s")
    page = (tmp_path / "s" / "report.html").read_text()
    broken = "dropout+<wbr>l2+<wbr>adv_<wbr>target=feat"
    assert f'<div class="arm"><b>{broken}</b>' in page and f"<tr><td><b>{broken}</b>" in page
    assert page.count(f'<figcaption class="name">{broken}') == 3, "accuracy, loss and calibration"
    assert name in check_page(tmp_path / "s") and "\u2026" not in page


def test_names_beside_the_costs(study):
    """Each arm's name stands in a place of its own, off the plot, with a line to its mark."""
    page = (study[0] / "report.html").read_text()
    figure = re.search(r"<title>cost against gain</title>.*?</svg>", page, re.S).group(0)
    names = [(float(x), float(y), name) for x, y, name in re.findall(r'<text x="([0-9.]+)" y="([0-9.]+)" class="halo">([^<]*)<', figure)]
    marks = [float(x) for x in re.findall(r'class="leader" d="M([0-9.]+) ', figure)]
    heights = sorted(y for _, y, _ in names)
    assert len(names) == len(marks) == 9 and all(b - a > 12 for a, b in zip(heights, heights[1:])), heights
    assert all(x > max(marks) + 8 for x, _, _ in names)


def test_first_colors_differ(study):
    """The five first arms' colors, light and dark, as readers with and without red-green blindness see them (Machado et al. 2009)."""
    style = (study[0] / "report.html").read_text().split("</style>")[0]
    sights = (np.eye(3), np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
              np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]))

    def lab(color, sight):
        rgb = np.array([int(color[i:i + 2], 16) for i in (0, 2, 4)]) / 255
        light = np.clip(sight @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ light / [0.9505, 1, 1.089]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    themes = re.findall(r"--c0:#(\w{6});--c1:#(\w{6});--c2:#(\w{6});--c3:#(\w{6});--c4:#(\w{6});", style)
    assert len(themes) == 2
    for colors in themes:
        for sight, least in zip(sights, (35, 13, 13)):
            seen = [lab(color, sight) for color in colors]
            apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
            assert min(apart) > least, (colors, apart)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """
const box = e => e.getBoundingClientRect(), all = (q, f) => [...document.querySelectorAll(q)].map(f);
document.body.innerHTML = "<pre id=found>" + JSON.stringify({
  page: document.documentElement.scrollWidth, window: window.innerWidth,
  names: all(".small figure", f => [box(f.querySelector("figcaption")).bottom, box(f.querySelector("svg")).top]),
  ece: all(".small figcaption .sub", e => { const r = document.createRange(); r.selectNodeContents(e.previousSibling);
    return [r.getBoundingClientRect().bottom, box(e).top]; }),
  shades: all(".scroll", e => [e.scrollWidth > e.clientWidth, getComputedStyle(e).backgroundAttachment]),
  cells: all(".answer .row:not(.axisrow) .plot", e => getComputedStyle(e).overflow),
  caption: all("figure.wide", f => [Math.max(...[...f.querySelectorAll("text")].map(t => box(t).bottom)), box(f.querySelector("figcaption")).top]),
}) + "</pre>";
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", (500, 1280))
def test_layout(tmp_path, width):
    """As a browser lays it out: nothing stands on something else, the page itself does not scroll sideways, and a table that does shows it."""
    arms = {"none": 0, "adv": 0.1, "dropout+l2+adv_target=feat": 0.3}
    make_study(tmp_path / "s", arms, folds=2, seeds=(0, 1), pictures=40)
    report(tmp_path / "s")
    page = (tmp_path / "s" / "report.html").read_text()
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", f"<script>{MEASURE}</script></body>")
    (tmp_path / "measured.html").write_text(page)
    said = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}", f"--window-size={width},1000",
                           "--dump-dom", f"file://{tmp_path / 'measured.html'}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120,
                          check=False).stdout
    found = json.loads(html.unescape(re.search(r"<pre id=\"found\">(.*?)</pre>", said, re.S).group(1)))
    assert found["page"] <= found["window"], found
    assert len(found["names"]) == 9 and len(found["ece"]) == 3
    for what in ("names", "ece", "caption"):
        assert all(above <= below + 1 for above, below in found[what]), (what, found[what])
    # What covers the shades moves with the table, the shades do not.
    assert all(attached == "local, local, scroll, scroll" for _, attached in found["shades"])
    assert any(wide for wide, _ in found["shades"]) or width > 1000
    assert set(found["cells"]) == {"hidden"}, "the zero line ends with its row"
