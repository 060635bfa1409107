"""Safetensors files in and out with numpy alone, and the comparison that tests of tensors use."""
import json
import pathlib
import struct

import numpy as np

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}


def write(path, tensors, raw=None):
    """tensors: name -> array. raw: name -> (dtype name, shape, bytes) for kinds numpy lacks (BF16)."""
    header, at, blobs = {}, 0, []
    entries = {name: (NAMES[array.dtype], list(array.shape), np.ascontiguousarray(array).tobytes())
               for name, array in tensors.items()}
    entries.update(raw or {})
    for name, (dtype, shape, blob) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for blob in blobs:
            file.write(blob)


def read(path):
    data = np.memmap(pathlib.Path(path), np.uint8, "r")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8:8 + length].tobytes())
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        out[name] = np.frombuffer(data[start:end].tobytes(), DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return out


def distance(a, b):
    """||a - b|| / ||b|| in double; infinite where a is not finite or shapes differ."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    return float(np.linalg.norm((a - b).ravel()) / max(np.linalg.norm(b.ravel()), 1e-300))
