#!/usr/bin/env python3
"""Prints tests/golden/tokens.json: hashes of the reference tokenizer's ids for every code point.

    tests/support/install-node-oracle.sh
    tests/golden/tokens.py > tests/golden/tokens.json

The text has a line for each code point: between letters, alone, between marks that NFD reorders. It is taken in parts, each with
a vocabulary in which the part's characters, and what they become, are tokens of their own; a part's hash is the SHA-256 of its
ids as `prepctl inspect text` prints them. tests/parity/test_tokens.py compares, without the reference tokenizer; where a hash
differs, its test_code_points with FULL=1 and the reference tokenizer tells the characters.
"""
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ORACLE = ROOT / "tests" / "support" / "oracle_encode.cjs"
PART = 1 << 16
# White space at the end of a line of a vocabulary is trimmed.
BLANK = set(map(chr, [*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]))


def parts():
    return range(0, 0x110000, PART)


def characters(first, end):
    return [chr(c) for c in range(first, end) if not 0xD800 <= c < 0xE000 and c != 10]


def vocab_of_part(first):
    """Compatibility ideographs of plane 2 become ideographs of plane 0."""
    always = [chr(c) for c in (*range(0x30, 0x3A), *range(0x61, 0x7B), 0x302E, 0x1D165)]
    ideographs = characters(0x3400, 0xA000) if first == 0x20000 else []
    part = dict.fromkeys([*always, *ideographs, *characters(first, first + PART)])
    visible = [c for c in part if c not in BLANK and c != "#"]
    return "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "#", *visible, *("##" + c for c in visible)]).encode()


def text_of_part(first):
    lines = [f"a{c}b {c} x{c}\u302e{c}\u0301y \u302e{c}\U0001d165{c}\u302e A\u0327{c}{c}" for c in characters(first, first + PART)]
    return ("\n".join(lines) + "\n").encode()


def hash_of_part(first, command):
    """command: a list that the vocabulary's path is appended to; reads lines, prints ids."""
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder) / "vocab.txt"
        vocab.write_bytes(vocab_of_part(first))
        done = subprocess.run([*command, vocab], input=text_of_part(first), capture_output=True, check=True)
    return hashlib.sha256(done.stdout).hexdigest()


def main():
    version = json.loads((ROOT / "tests/node_modules/tokenizers/package.json").read_text())["version"]
    command = ["node", "--max-old-space-size=6000", str(ORACLE)]
    hashes = {f"{first:06X}": hash_of_part(first, command) for first in parts()}
    json.dump({"oracle": f"tokenizers {version} (npm)", "parts": hashes}, sys.stdout, indent="\t")
    print()


if __name__ == "__main__":
    main()
