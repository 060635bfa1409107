#!/usr/bin/env python3
"""Keeps the parts of README.md that programs print equal to what they print.

    tools/readme.py --check     exit code 1 and a diff where README.md differs
    tools/readme.py --update    write them anew

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true")
    what.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = PART.sub(lambda match: match.group(1) + help_of(match.group(2).split()) + match.group(4), before)
    if before == after:
        return 0
    if arguments.update:
        path.write_text(after, encoding="utf-8")
        print("README.md: updated")
        return 0
    sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "README.md", "what the programs print"))
    print("README.md differs from --help: run tools/readme.py --update")
    return 1


if __name__ == "__main__":
    sys.exit(main())
