"""What the benches share: a table of results, a daemon of one's own, test data.

Every figure stands beside a limit or a peer measured in the same run: figures
of different days, machines and loads do not compare.
"""
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
BUILD = ROOT / "build" / "release"
SHARED_DATA = pathlib.Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
REPEATS = int(os.environ.get("BENCH_REPEATS", "3"))


def needed(name):
    """A folder of the real data, without which there is nothing to measure."""
    if not (SHARED_DATA / name).exists():
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {SHARED_DATA / name} is not there; SHARED_DATA names the folder that has {name}")
    return SHARED_DATA / name


class Table:
    """Rows of (what, figure, unit, peer's name, peer's figure)."""

    def __init__(self, title):
        self.title = title
        self.digits = 1
        self.rows = []

    def add(self, what, figure, unit, peer="", peer_figure=None):
        self.rows.append((what, figure, unit, peer, peer_figure))
        ratio = f", {figure / peer_figure:.2f} of {peer}'s {self.number(peer_figure)}" if peer_figure else ""
        print(f"  {what}: {self.number(figure)} {unit}{ratio}", flush=True)

    def number(self, value):
        return f"{value:,.{self.digits}f}"

    def markdown(self):
        lines = [f"### {self.title}", "", "| what | here | unit | beside | its figure | ratio |", "|---|---:|---|---|---:|---:|"]
        for what, figure, unit, peer, peer_figure in self.rows:
            beside = self.number(peer_figure) if peer_figure else ""
            ratio = f"{figure / peer_figure:.2f}" if peer_figure else ""
            lines.append(f"| {what} | {self.number(figure)} | {unit} | {peer} | {beside} | {ratio} |")
        return "\n".join(lines) + "\n"


def give(text, out):
    """Into a file where --out names one."""
    if out:
        out.write_text(text)
    else:
        print(text)


def median_of(function, repeats=REPEATS):
    return statistics.median(function() for _ in range(repeats))


def seconds_of(function):
    started = time.monotonic()
    function()
    return time.monotonic() - started


def note(text):
    print(f"  ({text})", flush=True)
