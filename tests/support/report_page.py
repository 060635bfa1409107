"""What the tests of `trainer report` share: the report on a folder, its numbers, and a look at its page."""
import html.parser
import json
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import run_ok  # noqa: E402
from study_folder import make_robustness, make_study  # noqa: E402


def report(folder, *more):
    return run_ok("trainer", "report", folder, "--samples", "0", *more)


def as_json(folder):
    return json.loads(report(folder, "--json").stdout)


def arm_of(found, name):
    return next(arm for arm in found["arms"] if arm["name"] == name)


class Page(html.parser.HTMLParser):
    """Whether tags close, and what a browser would fetch or run."""

    VOID = {"meta", "br", "img", "link", "input", "hr", "wbr"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.stack, self.faults, self.words, self.links = [], [], [], []
        self.feed(text)
        self.close()
        if self.stack:
            self.faults.append(f"never closed: {self.stack}")

    def handle_starttag(self, tag, attributes):
        if tag == "script" or any(name.startswith("on") for name, _ in attributes):
            self.faults.append(f"runs something: {tag} {attributes}")
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.faults.append(f"closes {tag} at {self.getpos()}")

    def handle_data(self, data):
        self.words.append(data)


def check_page(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.faults, page.faults[:3]
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    for number, svg in enumerate(re.findall(r"<svg.*?</svg>", text, re.S)):
        ElementTree.fromstring(svg)
        assert not re.search(r"\b(nan|inf)\b", re.sub(r"<title>.*?</title>|<text.*?</text>", "", svg), re.I), f"figure {number}: {svg[:300]}"
    assert "http" not in re.sub(r"http-equiv", "", text)
    return "".join(page.words)


def validations_of(folder):
    """Of each panel of the curves: where its line of validation goes, where dots of it stand, and what the axis has, in epochs."""
    paths, dots, ticks = [], [], []
    page = (folder / "report.html").read_text()
    for svg in re.findall(r"<svg.*?</svg>", page, re.S):
        if "epochs done" not in svg:
            continue
        marks = [(float(x), float(label)) for x, label in re.findall(r'x="([0-9.]+)" y="[0-9.]+" text-anchor="middle">([0-9.]+)</text>', svg)]
        assert len(marks) > 1 and all(label == int(label) for _, label in marks), marks
        (x0, e0), (x1, e1) = marks[0], marks[-1]

        def epoch(x):
            return round(e0 + (float(x) - x0) * (e1 - e0) / (x1 - x0), 1)

        paths += [[epoch(x) for x in re.findall(r"[ML]([0-9.]+) ", path)] for path in re.findall(r'<path class="line s0" d="([^"]*)"', svg)]
        dots.append([epoch(x) for x in re.findall(r'<circle class="dot s0" cx="([0-9.]+)"', svg)])
        ticks.append([int(label) for _, label in marks])
    return paths, dots, ticks


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "study"
    accuracies = make_study(folder, folds=5, seeds=(0, 1, 2), pictures=120)
    make_robustness(folder)
    return folder, accuracies, report(folder).stdout
