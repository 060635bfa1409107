#!/usr/bin/env python3
"""Writes the seeds of fuzz_torchfile again: tiny state dicts as torch.save() writes them.

    /usr/bin/python3 tests/fuzz/make_torchfile_seeds.py
"""
import collections
import io
import pickle
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent / "corpus" / "torchfile"


def without_checksums(path):
    """0 in the directory means that there is none: mutations of the content would all end there."""
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2")
    while at >= 0:
        data[at + 16:at + 20] = bytes(4)
        at = data.find(b"PK\1\2", at + 4)
    path.write_bytes(data)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    whole = torch.arange(12.0)
    state = collections.OrderedDict(a=whole[:6].view(2, 3), t=whole.view(3, 4).t(), n=torch.tensor(3), h=torch.ones(2, dtype=torch.float16),
                                    p=torch.nn.Parameter(torch.ones(2)), e=torch.zeros(0, 2), x=torch.ones(1).expand(3))
    things = {"plain": state, "wrapped": {"state_dict": {"module.w": torch.ones(2)}, "epoch": 1, "size": torch.Size([2]), "lr": 0.5},
              "kinds": {str(dtype)[6:]: torch.ones(1, dtype=dtype) for dtype in (torch.float64, torch.bfloat16, torch.int32, torch.int16,
                                                                               torch.int8, torch.uint8, torch.bool)}}
    for name, thing in things.items():
        for form, new in (("zip", True), ("legacy", False)):
            for protocol in (2, 4):
                with open(FOLDER / f"{name}-{form}-{protocol}", "wb") as file:
                    torch.save(thing, file, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
                if new:
                    without_checksums(FOLDER / f"{name}-{form}-{protocol}")
    for protocol in range(6):
        out = io.BytesIO()
        pickle.dump({"l": [1, -2, 1 << 70, 0.5, None, True, b"b", "u", (1, 2, 3, 4), {5}, frozenset({6})]}, out, protocol)
        (FOLDER / f"program-{protocol}").write_bytes(out.getvalue())


if __name__ == "__main__":
    main()
