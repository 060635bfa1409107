"""Files of torch.save() as weights: both formats, every dtype, strides, shared storages, wrappers; what is refused, and that nothing of it runs.

The oracle is PyTorch: what it wrote must come out as the same values, seen through `trainer probe`, whose results must be
the same bytes as with the same values in a safetensors file. Hostile pickles are made by hand.
"""
import collections
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import tensors  # noqa: E402
from harness import run  # noqa: E402
from test_probe import GRADIENT_LIMIT, VALUE_LIMIT, make_batch, make_model, torch_step  # noqa: E402
from torch_model import FusionModel, off_constants, without_dropout  # noqa: E402

FORMATS = {"zip": True, "legacy": False}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A folder with a batch, the state dict of a tiny model, and the results with it as safetensors."""
    folder = tmp_path_factory.mktemp("torchfile")
    state = make_model("tiny", 2, 3).state_dict()
    tensors.write(folder / "b.safetensors", make_batch("tiny", "match", 2, 4, 5))
    return folder, state, expected(folder, state, "plain")


def probe(folder, weights, out, *more):
    return run("trainer", "probe", "--preset", "tiny", "--mode", "eval", "--threads", "1", "--weights", weights, "--batch",
               folder / "b.safetensors", "--out", folder / out, *more)


def results(folder, weights, *more):
    done = probe(folder, weights, "o.safetensors", *more)
    assert done.returncode == 0, done.stderr
    return (folder / "o.safetensors").read_bytes()


def as_numpy(state):
    return {name: value.detach().float().numpy() if value.is_floating_point() else value.numpy() for name, value in state.items()}


def expected(folder, state, name):
    tensors.write(folder / f"{name}.safetensors", as_numpy(state))
    return results(folder, folder / f"{name}.safetensors")


def save(path, thing, form, **options):
    torch.save(thing, path, _use_new_zipfile_serialization=FORMATS[form], **options)
    return path


def refused(folder, path, *needles, code=1):
    """Refused in one line that names the file and these words."""
    (folder / "refused.safetensors").unlink(missing_ok=True)
    done = probe(folder, path, "refused.safetensors")
    assert done.returncode == code, (done.returncode, done.stderr)
    assert not (folder / "refused.safetensors").exists()
    last = done.stderr.strip().splitlines()[-1]
    for needle in (Path(path).name, *needles):
        assert str(needle) in last, last


# --- what is read -------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_plain(setting, form):
    folder, state, want = setting
    assert results(folder, save(folder / "plain.pth", state, form)) == want


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(setting, form, protocol):
    folder, state, want = setting
    assert results(folder, save(folder / "protocol.bin", state, form, pickle_protocol=protocol)) == want


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(setting, form, dtype):
    folder, state, _ = setting
    # f64 with more digits than float32 has: rounded to the nearest, as PyTorch's .float() does
    torch.manual_seed(0)
    other = {name: (value.double() * (1 + 1e-9 * torch.rand(value.shape, dtype=torch.float64))).to(dtype)
             if value.is_floating_point() else value for name, value in state.items()}
    assert results(folder, save(folder / "dtype.pth", other, form)) == expected(folder, other, "dtype")


@pytest.mark.parametrize("form", FORMATS)
def test_not_contiguous(setting, form):
    folder, state, want = setting
    other = {}
    for number, (name, value) in enumerate(state.items()):
        if value.dim() == 2:
            other[name] = value.t().contiguous().t()
        elif value.dim() == 4:
            other[name] = value.contiguous(memory_format=torch.channels_last)
        elif value.dim() == 1 and number % 2:
            wide = torch.full((len(value), 3), 77.0)
            wide[:, 1] = value
            other[name] = wide[:, 1]
        else:
            other[name] = value
    # of another shape in the file than in storage, and a broadcast that repeats one value
    other["image_encoder.bn1.bias"] = torch.full((1,), 0.25).expand(16)
    assert sum(not value.is_contiguous() for value in other.values()) > 20
    assert results(folder, save(folder / "strided.pth", other, form)) == expected(folder, other, "strided")
    assert results(folder, folder / "strided.pth") != want


@pytest.mark.parametrize("form", FORMATS)
def test_shared_storage_and_offsets(setting, form):
    folder, state, want = setting
    names = [name for name, value in state.items() if value.is_floating_point()]
    together = torch.cat([torch.zeros(5)] + [state[name].flatten() for name in names])
    other, at = dict(state), 5
    for name in names:
        other[name] = together[at:at + state[name].numel()].view(state[name].shape)
        at += state[name].numel()
    assert results(folder, save(folder / "shared.pth", other, form)) == want
    assert os.path.getsize(folder / "shared.pth") < 1.2 * os.path.getsize(folder / "plain.safetensors")


@pytest.mark.parametrize("form", FORMATS)
def test_wrappers_and_prefixes(setting, form):
    folder, state, want = setting
    prefixed = collections.OrderedDict(("module." + name, value) for name, value in state.items())
    compiled = {"_orig_mod.module." + name: torch.nn.Parameter(value, requires_grad=False) for name, value in state.items()}
    lightning = {"state_dict": {"model." + name: value for name, value in state.items()}, "hyper_parameters": {"lr": 1e-4}, "epoch": 3}
    things = [prefixed, compiled, lightning, {"net.module." + name: value for name, value in state.items()}, {"state_dict": prefixed, "epoch": 3, "best": 0.75, "arch": "x", "device": torch.device("cpu")},
              {"model": state, "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0]}]},
               "big": 1 << 80, "minus": -5, "none": None, "yes": True, "set": {1, 2}, "bytes": b"\x00\xff", "size": torch.Size([2, 3]),
               "dtype": torch.float32, "milestones": collections.Counter({30: 1})},
              {"model": {"state_dict": prefixed}, "step": torch.tensor(7)}, {"weights_of_mine": state, "note": "only one dict of tensors"},
              torch.nn.ParameterDict({}).state_dict() | state]
    for number, thing in enumerate(things):
        assert results(folder, save(folder / f"wrapped{number}.pth", thing, form)) == want, number


def test_with_metadata_and_python2_style_dict(setting):
    folder, _, want = setting
    model = make_model("tiny", 2, 3)
    state = model.state_dict()
    assert hasattr(state, "_metadata")
    assert results(folder, save(folder / "meta.pth", state, "zip")) == want
    # OrderedDict([[key, value], ...]), as Python 2 pickled it
    class Pairs:
        def __init__(self, inner):
            self.inner = inner

        def __reduce__(self):
            return collections.OrderedDict, ([[key, value] for key, value in self.inner.items()],)

    assert results(folder, save(folder / "py2.pth", Pairs(state), "legacy")) == want


def test_extension_means_nothing(setting):
    folder, state, want = setting
    assert results(folder, save(folder / "looks-like.safetensors", state, "zip")) == want
    (folder / "looks-like.pth").write_bytes((folder / "plain.safetensors").read_bytes())
    assert results(folder, folder / "looks-like.pth") == want


def test_zip64_and_other_archive_names(setting):
    """The same archive packed anew by Python's zipfile, with 64-bit sizes in every entry and another folder's name."""
    folder, state, want = setting
    save(folder / "plain.pth", state, "zip")
    with zipfile.ZipFile(folder / "plain.pth") as old, zipfile.ZipFile(folder / "again.pth", "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            with new.open("other-name/" + name.split("/", 1)[1], "w", force_zip64=True) as file:
                file.write(old.read(name))
        new.comment = b"a comment behind the directory"
    assert results(folder, folder / "again.pth") == want


def test_zip64_directory(setting):
    """An archive whose directory says its sizes and offsets in 64 bits only."""
    folder, state, want = setting
    path = save(folder / "plain.pth", state, "zip")
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\5\6")
    count, size, at = struct.unpack("<HII", data[end + 10:end + 20])
    directory, p = bytearray(), at
    while p < at + size:
        (csize, usize, names, extras, comments) = struct.unpack("<IIHHH", data[p + 20:p + 34])
        (local,) = struct.unpack("<I", data[p + 42:p + 46])
        entry = bytearray(data[p:p + 46 + names])
        assert csize == usize and not comments
        struct.pack_into("<II", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<H", entry, 30, 4 + 24)
        struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
        directory += entry + struct.pack("<HHQQQ", 1, 24, usize, csize, local)
        p += 46 + names + extras
    data = data[:at] + directory
    data += struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(directory), at)
    data += struct.pack("<IIQI", 0x07064B50, 0, at + len(directory), 1)
    data += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (folder / "zip64.pth").write_bytes(data)
    assert torch.load(folder / "zip64.pth").keys() == state.keys()
    assert results(folder, folder / "zip64.pth") == want


def test_legacy_view_of_a_storage(tmp_path):
    """Old files name parts of a storage on their own: ('storage', class, key, device, elements, (view, offset, length))."""
    model = make_model("tiny", 2, 3)
    state = model.state_dict()
    tensors.write(tmp_path / "b.safetensors", make_batch("tiny", "match", 2, 4, 5))
    want = expected(tmp_path, state, "plain")
    bias = state["head.bias"]
    rest = {name: value for name, value in state.items() if name != "head.bias"}
    save(tmp_path / "rest.pth", rest | {"head.bias": torch.cat([torch.zeros(3), bias])}, "legacy")
    data = (tmp_path / "rest.pth").read_bytes()
    # the pickled id of the 5 values ends with: 5 elements, no view; and shape (5,), stride (1,)
    key = data.rindex(b"head.bias")
    at = data.index(b"N", data.index(b"cpu", key) if b"cpu" in data[key:key + 200] else key)
    assert data[at - 2:at + 2] == b"K\x05Nt"
    shape = data.index(b"K\x05\x85", at)
    data = (data[:at] + b"X\x01\x00\x00\x00vK\x03K\x02\x87" + data[at + 1:shape] + b"K\x02\x85" + data[shape + 3:])
    (tmp_path / "view.pth").write_bytes(data)
    assert torch.equal(torch.load(tmp_path / "view.pth")["head.bias"], bias)
    assert results(tmp_path, tmp_path / "view.pth") == want


def test_shards(setting):
    folder, state, want = setting
    names = list(state)
    cuts = {"a-00001-of-00003.bin": names[::3], "b.safetensors": names[1::3], "c.bin": names[2::3]}
    shards = folder / "shards"
    shards.mkdir(exist_ok=True)
    for number, (file, part) in enumerate(cuts.items()):
        if file.endswith(".bin"):
            save(shards / file, {name: state[name] for name in part}, "zip" if number else "legacy")
        else:
            tensors.write(shards / file, as_numpy({name: state[name] for name in part}))
    where = {name: file for file, part in cuts.items() for name in part}
    index = shards / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}, indent=1))
    assert results(folder, index) == want
    assert results(folder, shards) == want, "the folder"
    for change, needle in ((dict(where, extra="c.bin"), "extra"), (dict(where, x="../plain.safetensors"), "../plain"),
                           (dict(where, x="missing.bin"), "missing.bin"), ({}, "no index of shards")):
        index.write_text(json.dumps({"weight_map": change}))
        done = probe(folder, index, "refused.safetensors")
        assert done.returncode == 1 and needle in done.stderr, done.stderr
    index.unlink()
    done = probe(folder, shards, "refused.safetensors")
    assert done.returncode == 1 and "without model.safetensors or pytorch_model.bin" in done.stderr


# --- other sizes: export and forward against PyTorch ----------------------------------


OTHER = dict(layers=3, width=96, heads=3, inner=200, positions=40, types=1, eps=1e-5)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("arch", ["resnet34", "resnet101"])
def test_encoders_of_other_sizes(tmp_path, arch, form):
    torch.manual_seed(4)
    model = off_constants(without_dropout(FusionModel("tiny", 200, 2, image=arch, text=OTHER)))
    batch = make_batch("tiny", "match", 2, 3, 8)
    tensors.write(tmp_path / "b.safetensors", batch)
    save(tmp_path / "w.bin", model.state_dict(), form)
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": 96, "num_hidden_layers": 3,
              "num_attention_heads": 3, "intermediate_size": 200, "max_position_embeddings": 40, "type_vocab_size": 1,
              "layer_norm_eps": 1e-5, "vocab_size": 200, "position_embedding_type": "absolute", "is_decoder": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = "layers=3,width=96,heads=3,inner=200,eps=1e-5" if form == "zip" else None
    how = ("--text-encoder", spec) if spec else ("--text-config", tmp_path / "config.json")
    results(tmp_path, tmp_path / "w.bin", "--image-encoder", arch, *how)
    ours = tensors.read(tmp_path / "o.safetensors")
    logits, loss, exact = torch_step(model, batch, "eval", torch.float64)
    _, _, single = torch_step(model, batch, "eval", torch.float32)
    assert tensors.distance(ours["logits"], logits) <= VALUE_LIMIT and abs(float(ours["loss"]) - loss) <= VALUE_LIMIT * abs(loss)
    for name, value in exact.items():
        if name != "image.grad" and not name.endswith("attention.self.key.bias.grad"):
            allowed = max(GRADIENT_LIMIT, 4 * tensors.distance(single[name], value))
            assert tensors.distance(ours[name], value) <= 10 * allowed, name


def test_layer_norm_eps_matters(setting):
    folder, _, want = setting
    assert results(folder, folder / "plain.safetensors", "--text-encoder", "eps=1e-12") == want
    assert results(folder, folder / "plain.safetensors", "--text-encoder", "eps=1e-3") != want


# --- what is refused ------------------------------------------------------------------


def archive(path, program, entries=(), root="archive"):
    """A zip file as torch.save() writes it around this pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{root}/data.pkl", program)
        for name, data in entries:
            file.writestr(f"{root}/{name}", data)
    return path


LEGACY_HEAD = b"".join(pickle.dumps(value, 2) for value in (
    0x1950a86a20f9469cfc6c, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}))


def both(folder, name, program):
    (folder / f"{name}-legacy.pth").write_bytes(LEGACY_HEAD + program + pickle.dumps([], 2))
    return archive(folder / f"{name}-zip.pth", program), folder / f"{name}-legacy.pth"


def hostile_programs(command):
    """Everything by which a pickle can call os.system(command), and the word that must name it."""
    text = command.encode()
    unicode_ = b"X" + struct.pack("<I", len(text)) + text
    system = b"cposix\nsystem\n"
    return {
        "reduce": (b"\x80\x02" + system + unicode_ + b"\x85R.", "posix.system"),
        "global": (b"\x80\x02cos\nsystem\n.", "os.system"),
        "builtin": (b"\x80\x02cbuiltins\neval\n" + unicode_ + b"\x85R.", "builtins.eval"),
        "stack_global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93" + unicode_ + b"\x85R.", "os.system"),
        "inst": (b"\x80\x02(" + unicode_ + b"iposix\nsystem\n.", "INST"),
        "obj": (b"\x80\x02(" + system + unicode_ + b"o.", "posix.system"),
        "obj_allowed": (b"\x80\x02(ccollections\nOrderedDict\n" + unicode_ + b"o.", "OBJ"),
        "newobj": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        "newobj_ex": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "NEWOBJ_EX"),
        "extension": (b"\x80\x02\x82\x01.", "EXT1"),
        "build": (b"\x80\x02ccollections\nOrderedDict\n}" + unicode_ + b"Nsb.", "BUILD"),
        "build_setstate": (b"\x80\x02cos\n_wrap_close\n)\x81}b.", "os._wrap_close"),
        "dotted": (b"\x80\x04\x8c\x05torch\x8c\x0e_utils.os.name\x93.", "torch._utils.os.name"),
        "call_storage": (b"\x80\x02ctorch\nFloatStorage\n" + unicode_ + b"\x85R.", "torch.FloatStorage"),
        "call_dtype": (b"\x80\x02ctorch\nfloat32\n)R.", "torch.float32"),
        "shorter": (b"\x80\x02ctorch\nFloat\n.", "torch.Float;"),
        "longer": (b"\x80\x02ctorch\nFloatStorageX\n.", "torch.FloatStorageX;"),
        "nameless": (b"\x80\x04\x8c\x00\x8c\x00\x93.", "names .;"),
        "persid": (b"\x80\x02Pabc\n.", "PERSID"),
        "newline_in_name": (b"\x80\x04\x8c\x02os\x8c\x08sys\x1b[2Jm\x93.", "os.sys?[2Jm"),
    }


@pytest.mark.parametrize("name", hostile_programs("true"))
def test_hostile_pickle_runs_nothing(setting, tmp_path, name):
    folder, _, _ = setting
    marker = tmp_path / "executed"
    program, needle = hostile_programs(f"touch {marker}")[name]
    for path in both(tmp_path, name, program):
        refused(folder, path, needle)
        assert not marker.exists()
    if name == "reduce":  # the marker works: Python itself would have run it
        pickle.loads(program)
        assert marker.exists()


@pytest.mark.parametrize("form", FORMATS)
def test_whole_module(setting, form):
    folder, _, _ = setting
    refused(folder, save(folder / "module.pth", torch.nn.Sequential(torch.nn.Linear(2, 2)), form),
            "torch.nn.modules.container.Sequential" if form == "zip" else "module", "state_dict()", "safetensors")
    refused(folder, save(folder / "namespace.pth", {"state_dict": {"a": torch.ones(1)}, "args": pytest.approx(1)}, form), "ApproxScalar")


@pytest.mark.parametrize("form", FORMATS)
def test_not_a_state_dict(setting, form):
    folder, state, _ = setting
    refused(folder, save(folder / "list.pth", [torch.ones(2)], form), "a list, not a state dict")
    refused(folder, save(folder / "tensor.pth", torch.ones(2), form), "a tensor, not a state dict")
    refused(folder, save(folder / "numbers.pth", {"a": 1}, form), "no state dict")
    refused(folder, save(folder / "two.pth", {"encoder": dict(state), "decoder": dict(state)}, form), "several state dicts (encoder, decoder)")
    refused(folder, save(folder / "complex.pth", dict(state, x=torch.ones(2, dtype=torch.complex64)), form), "torch.ComplexFloatStorage")
    refused(folder, save(folder / "deep.pth", dict(state, x=torch.ones([1] * 9)), form), "8 dimensions")
    refused(folder, save(folder / "nan.pth", dict(state, **{"head.bias": torch.tensor([1.0, float("nan")])}), form), "head.bias", "finite")
    refused(folder, save(folder / "inf.pth", dict(state, **{"head.bias": torch.tensor([1.0, 1e300], dtype=torch.float64)}), form), "finite")
    refused(folder, save(folder / "shape.pth", dict(state, **{"head.bias": torch.ones(3)}), form), "head.bias", "(3)", "(2)")
    refused(folder, save(folder / "integers.pth", dict(state, **{"head.bias": torch.ones(2, dtype=torch.int64)}), form), "head.bias", "I64")


def tensor_program(numel, offset, shape, stride, key=b"0", protocol=b"\x80\x02", more=b""):
    """{'x': _rebuild_tensor_v2(storage of numel, offset, shape, stride, requires_grad, hooks, more)}"""
    def number(n):
        return b"\x8a\x08" + struct.pack("<q", n)

    def numbers(ns):
        return b"(" + b"".join(number(n) for n in ns) + b"t"

    text = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX" + struct.pack("<I", len(key)) + key + b"X\x03\x00\x00\x00cpu"
    return (protocol + b"}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n((" + text + number(numel) + b"tQ" + number(offset) +
            numbers(shape) + numbers(stride) + b"\x89}" + more + b"tRs.")


@pytest.mark.parametrize("numel,offset,shape,stride,needle", [
    (4, 0, [2, 3], [3, 1], "leaves its storage"), (4, 3, [2], [1], "leaves its storage"), (4, 1 << 62, [1], [1], "leaves its storage"),
    (4, 0, [1 << 40, 1 << 40], [0, 0], "leaves its storage"), (4, 0, [2], [(1 << 63) - 1], "leaves its storage"),
    (4, 0, [(1 << 63) - 1], [0], "leaves its storage"), (4, -1, [2], [1], "cannot be"), (4, 0, [-2], [1], "cannot be"),
    (4, 0, [2], [-1], "cannot be"), (4, 0, [2, 2], [1], "cannot be"), (5, 0, [2], [1], "not its 5 F32 values"),
    (1 << 62, 0, [2], [1], "not its"), (-1, 0, [2], [1], "cannot be read"),
])
def test_impossible_tensors(setting, tmp_path, numel, offset, shape, stride, needle):
    folder, _, _ = setting
    program = tensor_program(numel, offset, shape, stride)
    refused(folder, archive(tmp_path / "t.pth", program, [("data/0", bytes(16))]), needle)
    (tmp_path / "l.pth").write_bytes(LEGACY_HEAD + program + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16))
    refused(folder, tmp_path / "l.pth", needle)


def test_values_that_are_not_those_stored(setting, tmp_path):
    """A view such as x.conj().imag has a bit that says "negate me", which PyTorch 2 saves as metadata."""
    folder, _, _ = setting
    for more, needle in ((b"}X\x03\x00\x00\x00neg\x88s", "negated"), (b"}", "lacks"), (b"N", "lacks")):
        program = tensor_program(4, 0, [4], [1], more=more)
        refused(folder, archive(tmp_path / "t.pth", program, [("data/0", bytes(16))]), needle)


def test_huge_broadcast_costs_no_memory(setting, tmp_path):
    """A shape of 2^40 values on one: opened, found to have another shape, and never laid out."""
    folder, _, _ = setting
    path = archive(tmp_path / "t.pth", tensor_program(4, 0, [1 << 20, 1 << 20], [0, 0]), [("data/0", bytes(16))])
    refused(folder, path, "lacks text_encoder.embeddings.word_embeddings.weight")


def test_storages_that_are_not_there(setting, tmp_path):
    folder, _, _ = setting
    refused(folder, archive(tmp_path / "t.pth", tensor_program(4, 0, [2], [1], b"1"), [("data/0", bytes(16))]), "lacks the storage 1")
    refused(folder, archive(tmp_path / "t.pth", tensor_program(4, 0, [2], [1], b"../data.pkl"), [("data/0", bytes(16))]), "lacks the storage")
    for tail, needle in ((pickle.dumps(["1"], 2), "no tensor uses"), (pickle.dumps([], 2), "lacks the storage 0"), (pickle.dumps(["0"], 2), "truncated"),
                         (pickle.dumps(["0"], 2) + struct.pack("<q", -1), "truncated"), (pickle.dumps(["0", "0"], 2) + bytes(64), "cannot be"),
                         (pickle.dumps({}, 2), "cannot be"), (pickle.dumps(["0"], 2) + struct.pack("<q", 1 << 61) + bytes(8), "truncated")):
        (tmp_path / "l.pth").write_bytes(LEGACY_HEAD + tensor_program(4, 0, [2], [1]) + tail)
        refused(folder, tmp_path / "l.pth", needle)


def test_bombs(setting, tmp_path):
    """Programs that would fill memory or never end elsewhere: all end soon, with an error."""
    folder, _, _ = setting
    doubling = b"\x80\x02]q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(200)) + b"."
    programs = {
        "a list, not a state dict": doubling,
        "stack is too short": b"\x80\x02a.", "a mark is missing": b"\x80\x02u.", "has not memorized": b"\x80\x02j\xff\xff\xff\xff.",
        "memorizes more than": b"\x80\x02Nr\xff\xff\xff\xff.", "is cut short": b"\x80\x02X\xff\xff\xff\xffabc",
        "members for something": b"\x80\x02NNa.", "no opcode 0xff": b"\x80\x02\xff", "cannot be called": b"\x80\x02N)R.",
        "a large number": b"\x80\x02\x8b\x10\x00\x00\x00" + bytes(16) + b".", "has no end": b"\x80\x02c" + b"x" * 3000,
    }
    for needle, program in programs.items():
        for path in both(tmp_path, "bomb", program):
            refused(folder, path, needle)
    # deep nesting, cycles, and more values than there may be
    for needle, program in (("a tuple, not a state dict", b"\x80\x02)" + b"\x85" * 200000 + b"."),
                            ("no state dict", b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dicth\x00s."),
                            ("more than 4194304 values", b"\x80\x02" + b"N0" * 4200000 + b"N."),
                            ("more than 8388608 marks", b"\x80\x02" + b"(" * 8400000 + b".")):
        refused(folder, archive(tmp_path / "deep.pth", program), needle)


def test_damaged_archives(setting, tmp_path):
    folder, state, want = setting
    data = save(folder / "plain.pth", state, "zip").read_bytes()

    def check(bad, *needles):
        (tmp_path / "bad.pth").write_bytes(bad)
        refused(folder, tmp_path / "bad.pth", *needles)

    check(data[:len(data) // 2], "truncated")
    check(data[:-1], "truncated")
    end = data.rindex(b"PK\5\6")
    check(data[:end + 12] + struct.pack("<I", 1 << 31) + data[end + 16:], "do not agree")
    check(data[:end + 10] + struct.pack("<H", 60000) + data[end + 12:], "do not agree")
    end64 = data.rindex(b"PK\6\6")
    check(data[:end64 + 40] + struct.pack("<Q", 1 << 31) + data[end64 + 48:end + 12] + b"\xff" * 4 + data[end + 16:], "outside")
    check(data[:end64 + 32] + struct.pack("<Q", 60000) + data[end64 + 40:end + 10] + b"\xff" * 2 + data[end + 12:], "directory")
    value = bytearray(data)
    at = bytes(value).index(np.float32(state["head.bias"][0]).tobytes() + np.float32(state["head.bias"][1]).tobytes())
    value[at] ^= 1
    check(bytes(value), "checksum")
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 4)
    local = struct.unpack("<I", data[second + 42:second + 46])
    check(data[:first + 42] + struct.pack("<I", *local) + data[first + 46:], "do not agree")
    check(data[:first + 8] + b"\x01" + data[first + 9:], "encrypted")
    save(folder / "legacy.pth", state, "legacy")
    check((folder / "legacy.pth").read_bytes()[:-3], "truncated")
    with zipfile.ZipFile(folder / "plain.pth") as old, zipfile.ZipFile(tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(folder, tmp_path / "deflated.pth", "compressed")
    with zipfile.ZipFile(tmp_path / "twice.pth", "w") as new, pytest.warns(UserWarning):
        new.writestr("archive/data.pkl", b"\x80\x02}.")
        new.writestr("archive/data.pkl", b"\x80\x02}.")
    refused(folder, tmp_path / "twice.pth", "two zip entries")
    with zipfile.ZipFile(tmp_path / "alien.pth", "w") as new:
        new.writestr("readme.txt", b"x")
    refused(folder, tmp_path / "alien.pth", "no data.pkl")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    refused(folder, tmp_path / "script.pt", "TorchScript")


def test_overlapping_entries(setting, tmp_path):
    """Two names for the same bytes: the second local header lies within the first entry's data."""
    folder, _, _ = setting
    inner = struct.pack("<IHHHHHIIIHH", 0x04034B50, 0, 0, 0, 0, 0, 0, 4, 4, 1, 0) + b"b" + b"abcd"
    outer = struct.pack("<IHHHHHIIIHH", 0x04034B50, 0, 0, 0, 0, 0, 0, len(inner), len(inner), 1, 0) + b"a"
    entries = [(b"a", len(inner), 0), (b"b", 4, len(outer))]
    directory = b"".join(struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 0, 0, 0, 0, 0, 0, 0, size, size, 1, 0, 0, 0, 0, 0, at) + name
                         for name, size, at in entries)
    data = outer + inner + directory + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 2, 2, len(directory), len(outer + inner), 0)
    (tmp_path / "inside.pth").write_bytes(data)
    refused(folder, tmp_path / "inside.pth", "two entries overlap")


def test_other_kinds_of_files(setting, tmp_path):
    folder, _, _ = setting
    kinds = {
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100), "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "web page": b"<!DOCTYPE html><html>", "gunzip": b"\x1f\x8b\x08" + bytes(30), "NumPy": b"\x93NUMPY\x01\x00" + bytes(60),
        "TensorFlow": bytes(64) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "tar -xf": bytes(257) + b"ustar" + bytes(300),
        "is empty": b"", "neither a safetensors file": b"just some text that is none of it", "no index of shards": b'{"a": 1}',
        "not of torch.save()": pickle.dumps({"a": 1}, 2),
    }
    for needle, data in kinds.items():
        (tmp_path / "kind.bin").write_bytes(data)
        refused(folder, tmp_path / "kind.bin", needle)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "tf_model.h5").write_bytes(b"x")
    refused(folder, tmp_path / "hf", "TensorFlow or Flax", "from_tf=True")


@pytest.mark.parametrize("change,needle", [
    ({"hidden_act": "relu"}, "hidden_act is 'relu'"), ({"hidden_act": "gelu_new"}, "gelu_new"), ({"model_type": "roberta"}, "roberta"),
    ({"position_embedding_type": "relative_key"}, "relative_key"), ({"is_decoder": True}, "is_decoder"), ({"hidden_size": 0}, "hidden_size"),
    ({"hidden_size": "x"}, "config.json:1:"), ({"num_attention_heads": 5}, "heads"), ({"layer_norm_eps": -1}, "layer_norm_eps"),
    ({"num_hidden_layers": 1 << 20}, "layers"), ({"hidden_size": 1 << 24}, "width"), ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob"),
])
def test_config_json_that_cannot_be(setting, tmp_path, change, needle):
    folder, _, _ = setting
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert probe(folder, folder / "plain.safetensors", "o.safetensors", "--text-config", tmp_path / "config.json").returncode == 0
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    done = probe(folder, folder / "plain.safetensors", "refused.safetensors", "--text-config", tmp_path)
    assert done.returncode in (1, 2) and needle in done.stderr, done.stderr


@pytest.mark.parametrize("words,needle", [
    (("--image-encoder", "resnet42"), "resnet18, resnet34"), (("--text-encoder", "layers"), "KEY=VALUE"), (("--text-encoder", "depth=3"), "depth"),
    (("--text-encoder", "layers=0"), "layers"), (("--text-encoder", "eps=2"), "eps"), (("--text-encoder", "width=63"), "multiple of its 2 heads"),
    (("--text-encoder", "layers=2,heads=2,layers=2"), "layers stands twice"),
])
def test_encoders_that_cannot_be(setting, words, needle):
    folder, _, _ = setting
    done = probe(folder, folder / "plain.safetensors", "refused.safetensors", *words)
    assert done.returncode == 2 and needle in done.stderr, done.stderr
