#!/usr/bin/env python3
"""Keeps the parts of README.md that programs print equal to what they print.

    tools/readme.py --check     exit code 1 and a diff where README.md differs
    tools/readme.py --update    write them anew

    make demo 2>&1 | tee build/demo.log; tools/readme.py --demo build/demo.log
    make test 2>&1 | tee build/test.log; tools/readme.py --test build/test.log
    make bench;                          tools/readme.py --bench build/bench.md
    tools/bench/expect.py --out build/expect.md; tools/readme.py --expect build/expect.md

The last four put the demo's table, the last line of the tests, the benches' table, and
what 50,000 pictures of COCO take into README.md, as a run printed them.

A part stands between `<!-- help: PROGRAM [VERB...] -->` and `<!-- end -->`. Programs
come from build/$MODE/bin (release).
"""
import argparse
import difflib
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIN = ROOT / "build" / os.environ.get("MODE", "release") / "bin"
PART = re.compile(r"(<!-- help: ([^>]+?) -->\n)(.*?)(<!-- end -->)", re.S)


def help_of(words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREPROCESSD_", "XDG_", "COLUMNS"))}
    result = subprocess.run([BIN / words[0], *words[1:], "--help"], capture_output=True, text=True, check=True, env=environment,
                            stdin=subprocess.DEVNULL)
    return f"```\n{result.stdout.rstrip()}\n```\n"


def put(text, name, content):
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.S)
    assert pattern.search(text), f"README.md has no part <!-- {name} -->"
    return pattern.sub(lambda match: match.group(1) + content + match.group(2), text)


def demo_table(log):
    """From the heading of the table to the end; a log may have carriage returns of progress lines."""
    lines = re.split(r"[\r\n]+", log)
    first = max(i for i, line in enumerate(lines) if line.startswith("run ") and "val accuracy" in line)
    table = [line for line in lines[first:] if line and not line.startswith(("make", "real", "user", "sys"))]
    return "```\n" + "\n".join(table) + "\n```\n"


def demo_minutes(log):
    minutes, seconds = re.findall(r"The whole demo took (\d+):(\d+)", log)[-1]
    return f"{int(minutes) + int(seconds) / 60:.0f}"


def last_count(log):
    return "```\n" + re.findall(r"^\d+ passed, \d+ failed, \d+ skipped$", log, re.M)[-1] + "\n```\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true")
    what.add_argument("--update", action="store_true")
    what.add_argument("--demo", type=pathlib.Path, metavar="LOG")
    what.add_argument("--test", type=pathlib.Path, metavar="LOG")
    what.add_argument("--bench", type=pathlib.Path, metavar="FILE")
    what.add_argument("--expect", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    if arguments.demo:
        log = arguments.demo.read_text(encoding="utf-8", errors="replace")
        after = put(before, "demo", demo_table(log))
        after = re.sub(r"It takes about \S+ minutes", f"It takes about {demo_minutes(log)} minutes", after)
    elif arguments.test:
        after = put(before, "test", last_count(arguments.test.read_text(encoding="utf-8", errors="replace")))
    elif arguments.bench:
        after = put(before, "bench", arguments.bench.read_text(encoding="utf-8"))
    elif arguments.expect:
        after = put(before, "expect", arguments.expect.read_text(encoding="utf-8"))
    else:
        after = PART.sub(lambda match: match.group(1) + help_of(match.group(2).split()) + match.group(4), before)
    if before == after:
        return 0
    if not arguments.check:
        path.write_text(after, encoding="utf-8")
        print("README.md: updated")
        return 0
    sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "README.md", "what the programs print"))
    print("README.md differs from --help: run tools/readme.py --update")
    return 1


if __name__ == "__main__":
    sys.exit(main())
