#!/usr/bin/python3
"""Captions a second of the tokenizer beside Hugging Face's Rust tokenizer, one thread each, and whether their ids are the same.

    tools/bench/bench_tokens.py [--out FILE.md]

The captions are those of captions_val2017.json in ../shared/data (or SHARED_DATA). The peer is npm's `tokenizers`, the same Rust
code behind another binding; tests/support/install-node-oracle.sh installs it.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import tempfile

from common import BUILD, REPEATS, ROOT, SHARED_DATA, Table, note

VOCAB = SHARED_DATA / "text" / "bert-base-uncased-vocab.txt"
CAPTIONS = SHARED_DATA / "text" / "captions_val2017.json"
ORACLE = ["node", ROOT / "tests" / "support" / "oracle_encode.cjs", VOCAB]


def output(command, path=None, stderr=None):
    with open(path or "/dev/null", "rb") as file:
        return subprocess.run([str(word) for word in command], stdin=file, stdout=subprocess.PIPE, stderr=stderr, check=True).stdout


def rate(command, path=None, stderr=None):
    """A number of captions a second: alone, or before the words."""
    said = output(command, path, stderr).decode()
    return float((re.search(r"([\d.]+) captions/s", said) or re.search(r"([\d.]+)\s*$", said))[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    table = Table("Tokens, one thread")
    if not CAPTIONS.exists() or not VOCAB.exists():
        note(f"{CAPTIONS} is not there: no captions")
    else:
        with tempfile.TemporaryDirectory() as folder:
            lines = pathlib.Path(folder) / "captions.txt"
            found = [item["caption"] for item in json.loads(CAPTIONS.read_text())["annotations"]]
            lines.write_text("".join(" ".join(caption.split("\n")) + "\n" for caption in found))
            pairs = []
            for _ in range(REPEATS):
                try:
                    peer = rate([*ORACLE, "--time"], lines, subprocess.DEVNULL)
                except (OSError, subprocess.CalledProcessError):
                    note("npm's tokenizers is not installed: no peer (tools/install-deps.sh --test)")
                    peer = None
                pairs.append((rate([BUILD / "bench" / "bench_wordpiece", VOCAB, lines]), peer))
            ours = statistics.median(mine for mine, _ in pairs)
            peer = statistics.median(theirs for _, theirs in pairs) if pairs[0][1] else None
            table.add(f"{len(found)} captions of captions_val2017.json", ours, "captions/s", "Hugging Face's Rust tokenizer", peer)
            if peer:
                same = output(ORACLE, lines) == output([BUILD / "bin" / "prepctl", "inspect", "text", "--vocab", VOCAB], lines)
                note("the same ids" if same else "THE IDS DIFFER")
                if not same:
                    raise SystemExit(1)
    if options.out:
        options.out.write_text(table.markdown())


if __name__ == "__main__":
    main()
