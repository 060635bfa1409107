#!/usr/bin/python3
"""Writes the seeds of fuzz_weights: tiny files of safetensors, good and nearly good, and an index of shards.

    /usr/bin/python3 tests/fuzz/make_weights_seeds.py
"""
import json
import struct
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "corpus" / "weights"
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def safetensors(entries, metadata=None, padding=0):
    """entries: (name, dtype, shape)."""
    header, at = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, dtype, shape in entries:
        size = SIZES[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode() + b" " * padding
    return struct.pack("<Q", len(text)) + text + bytes(i % 2 for i in range(at))


SEEDS = {
    "kinds": safetensors([(dtype.lower(), dtype, [2]) for dtype in SIZES], {"format": "pt"}),
    "shapes": safetensors([("scalar", "F32", []), ("none", "F32", [0, 3]), ("four", "F32", [1, 2, 1, 2])], padding=5),
    "wrapped": safetensors([("module.a", "F32", [2]), ("module.b.gamma", "F32", [1])]),
    "ours": safetensors([("a", "F32", [2])], {"format": "trainer-checkpoint-1", "checksum": "0123456789abcdef", "step": "3", "progress": "{}", "config": "{}"}),
    "cut": safetensors([("a", "F32", [2])])[:-3],
    "empty": safetensors([]),
    "index": json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "second", "b": "first"}}).encode(),
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in SEEDS.items():
        (FOLDER / name).write_bytes(content)
