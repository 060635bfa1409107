"""Runs of the trainer held against one another: everything that must not depend on what interrupted them."""
import json
import struct

TIME_FIELDS = {"pairs_per_s", "data_wait_s", "seconds", "adv_cost"}


def metrics(out, split=None):
    """The lines of metrics.jsonl without what depends on time."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in found if split in (None, line["split"])]


def record(out):
    return json.loads((out / "run.json").read_text())


def header(path):
    data = path.read_bytes()
    return json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])


def values(path):
    """Tensors of a safetensors file as bytes, without its metadata."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return {name: data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]]
            for name, entry in json.loads(data[8:8 + size]).items() if name != "__metadata__"}


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(message):
    """(number, value) of a protocol buffer's fields."""
    at, found = 0, []

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
        else:
            size = {1: 8, 5: 4}.get(key & 7)
            size = varint() if size is None else size
            found.append((key >> 3, message[at:at + size]))
            at += size
    return found


def scalars(out):
    """{(tag, step): value} of a run's event files; every checksum is verified, and no step may be there twice."""
    found = {}
    for path in sorted((out / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size, size_crc = struct.unpack_from("<QI", data, at)
            assert crc32c(data[at:at + 8]) == size_crc
            event = data[at + 12:at + 12 + size]
            assert crc32c(event) == struct.unpack_from("<I", data, at + 12 + size)[0]
            at += 16 + size
            step = dict(fields(event)).get(2, 0)
            for number, value in fields(event):
                if number == 3:
                    assert value == b"brain.Event:2"
                if number == 5:
                    for _, scalar in fields(value):
                        parts = dict(fields(scalar))
                        key = parts[1].decode(), step
                        assert key not in found, f"{key} is there twice, again in {path}"
                        found[key] = struct.unpack("<f", parts[2])[0]
    return found


def timeless_scalars(out):
    return {key: value for key, value in scalars(out).items() if not key[0].startswith("speed/") and key[0] != "adv/cost"}


def differences(out, whole):
    """What a finished run has other than the uninterrupted one; an empty list if nothing."""
    found = []

    def same(what, a, b):
        if a != b:
            found.append(f"{what}: {str(a)[:300]} / {str(b)[:300]}")

    same("metrics.jsonl", metrics(out), metrics(whole))
    for name in ("last.safetensors", "best.safetensors"):
        if (whole / name).exists() != (out / name).exists():
            found.append(f"{name} is there in one of them only")
        elif (whole / name).exists():
            same(name, (out / name).read_bytes(), (whole / name).read_bytes())
    newest = max((whole / "checkpoints").glob("step-*"))
    same("optimizer state", values(out / "checkpoints" / newest.name / "optimizer.safetensors"), values(newest / "optimizer.safetensors"))
    same("TensorBoard", timeless_scalars(out), timeless_scalars(whole))
    a, b = record(out), record(whole)
    same("state", a["state"], "finished")
    for said in (a, b):
        said["result"].pop("train_seconds")
    same("run.json", a, b)
    same("names", sorted(p.name for p in out.iterdir()), sorted(p.name for p in whole.iterdir()))
    # Ctrl-C writes one more, so the one before the last may be another.
    same("newest checkpoint", checkpoints(out)[-1], newest.name)
    same("checkpoints kept", len(list((out / "checkpoints").iterdir())), len(list((whole / "checkpoints").iterdir())))
    return found


def checkpoints(out):
    """Names of the finished checkpoints, oldest first."""
    return sorted(path.name for path in (out / "checkpoints").glob("step-*"))
