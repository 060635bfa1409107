"""prepctl inspect image against Pillow and torchvision, bit for bit: 9.4 and 0.14 (Debian 12), 11.1 and 0.21 (Debian 13).

The oracle is Resize((n, n)) of torchvision on Image.open(file).convert("RGB"),
then ToTensor and Normalize for float32; PIL.ImageOps.exif_transpose in front
for --exif apply. Pictures come from the test data, where it is, and are made
here with Pillow: sound ones of every kind, cut off ones and damaged ones.
FULL=1 takes every photo and every size instead of a sample.
"""
import contextlib
import io
import os
import random
import struct
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
ImageFile = pytest.importorskip("PIL.ImageFile")
ImageOps = pytest.importorskip("PIL.ImageOps")
transforms = pytest.importorskip("torchvision.transforms")

from pixel_exceptions import DECODED_THOUGH_PILLOW_REFUSES  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
PREPCTL = Path(os.environ.get("PREPCTL", ROOT / "build" / os.environ.get("MODE", "release") / "bin" / "prepctl"))
FULL = os.environ.get("FULL") == "1"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# What our message calls a format that Pillow opens.
NAMES = {"PNG": "PNG", "GIF": "GIF", "WEBP": "WebP", "TIFF": "TIFF", "BMP": "BMP", "JPEG2000": "JPEG 2000", "PPM": "PNM",
         "PSD": "Photoshop", "ICO": "icon"}

needs_data = pytest.mark.skipif(not (DATA / "odd").is_dir(), reason=f"no test data in {DATA}")
pytestmark = pytest.mark.filterwarnings("ignore")


class Refused:
    def __init__(self, reason, unopened=False):
        self.reason = reason
        self.unopened = unopened  # Pillow's own look at the header gave up


class OtherFormat(Refused):
    pass


def read_tensor(path):
    """The only tensor of a safetensors file, read without any code of ours."""
    import json
    raw = path.read_bytes()
    length, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    entry = header["image"]
    begin, end = entry["data_offsets"]
    dtype = {"U8": np.uint8, "F32": np.float32}[entry["dtype"]]
    return np.frombuffer(raw[8 + length + begin:8 + length + end], dtype).reshape(entry["shape"])


def ours_one(job):
    source, out, options = job
    done = subprocess.run([PREPCTL, "inspect", "image", source, *options, "--out", out], capture_output=True, check=False)
    message = done.stderr.decode("utf-8", "replace")
    if done.returncode == 0:
        assert message == "", f"{source}: {message}"
        tensor = read_tensor(out)
        out.unlink()
        return tensor
    assert done.returncode == 1, f"{source}: exit code {done.returncode}: {message}"
    assert message.count("\n") == 1 and Path(source).name in message, f"{source}: {message!r}"
    assert not out.exists(), f"{source}: refused, but {out} was written"
    return Refused(message)


def ours(paths, scratch, size=224, dtype="u8", exif="ignore"):
    options = ["--size", str(size), "--dtype", dtype, "--exif", exif]
    jobs = [(path, scratch / f"{i}.safetensors", options) for i, path in enumerate(paths)]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(ours_one, jobs))


def oracle(path, size=224, exif="ignore"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path)
        except Exception as error:  # whatever Pillow raises is a refusal
            return Refused(repr(error), unopened=True)
        if image.format not in ("JPEG", "MPO"):
            return OtherFormat(image.format)
        try:
            if exif == "apply":
                image.load()
                try:
                    image = ImageOps.exif_transpose(image)
                except Exception:
                    image = transpose(image)
            return np.asarray(transforms.Resize((size, size))(image.convert("RGB")))
        except Exception as error:
            return Refused(repr(error))


def transpose(image):
    """exif_transpose without what it does to the EXIF block afterwards, where it fails on odd ones."""
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # EXIF that Pillow can't read: we take it as none
        return image
    method = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
              5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
              8: Image.Transpose.ROTATE_90}.get(orientation)
    return image if method is None else image.transpose(method)


def difference(path, got, want):
    """None, or what is wrong."""
    if isinstance(want, OtherFormat):
        if not isinstance(got, Refused):
            return f"decoded, although it is {want.reason}"
        name = NAMES.get(want.reason)
        return None if "not JPEG" in got.reason and (name is None or name in got.reason) else f"unclear: {got.reason}"
    if isinstance(want, Refused):
        if isinstance(got, Refused):
            return None
        return "unopened" if want.unopened else f"decoded, although Pillow says {want.reason}"
    if isinstance(got, Refused):
        return f"refused, although Pillow loads it: {got.reason}"
    if got.shape != want.shape:
        return f"shape {got.shape}, not {want.shape}"
    if np.array_equal(got, want):
        return None
    return f"{(got != want).mean():.2%} of the bytes differ, by up to {np.abs(got.astype(int) - want.astype(int)).max()}"


def compare(paths, scratch, size=224, exif="ignore", allow_unopened=False):
    """Fails with all differences. Returns the paths that both sides loaded, and those that only we did."""
    loaded, unopened, wrong = [], [], []
    for path, got in zip(paths, ours(paths, scratch, size=size, exif=exif)):
        want = oracle(path, size, exif)
        text = difference(path, got, want)
        if text == "unopened":
            unopened.append(path)
            if allow_unopened:
                continue
        if text is not None and text != "unopened":
            wrong.append(f"{path}: {text}")
        elif not isinstance(got, Refused) and text is None:
            loaded.append(path)
    assert not wrong, f"{len(wrong)} of {len(paths)} differ:\n" + "\n".join(wrong[:20])
    assert allow_unopened or not unopened, f"only we decode {unopened}"
    return loaded, unopened


def files(folder):
    return sorted(p for p in (DATA / folder).rglob("*") if p.is_file())


def sample(paths, count):
    return paths if FULL or len(paths) <= count else paths[::max(1, len(paths) // count)]


def trips_over_exif():
    """Pillow 9.4 refuses a picture whose EXIF block ends too early for the resolution that it looks for there; 11.1 does not."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    sound = out.getvalue()
    try:
        Image.open(io.BytesIO(sound[:2] + b"\xff\xe1\x00\x0cExif\0\0MM\0*" + sound[2:])).load()
    except OSError:
        return True
    return False


# ---- the test data ----


@pytest.fixture(scope="module")
def loadable_odd_files(tmp_path_factory):
    """Every odd file at 224 pixels; the ones that both sides load go on."""
    odd = files("odd")
    loaded, unopened = compare(odd, tmp_path_factory.mktemp("odd"), allow_unopened=True)
    expected = sorted(DECODED_THOUGH_PILLOW_REFUSES) if trips_over_exif() else []
    assert sorted(str(p.relative_to(DATA / "odd")) for p in unopened) == expected
    return loaded


@needs_data
def test_every_odd_file(loadable_odd_files):
    assert len(loadable_odd_files) > 300  # a comparison of refusals alone would prove little


@needs_data
@pytest.mark.parametrize("size", [112, 97] + ([1, 2, 300, 1000] if FULL else []))
def test_odd_files_at_other_sizes(loadable_odd_files, size, tmp_path):
    compare(loadable_odd_files, tmp_path, size=size)


@needs_data
def test_odd_files_oriented(loadable_odd_files, tmp_path):
    compare(loadable_odd_files, tmp_path, size=150, exif="apply")


@needs_data
@pytest.mark.parametrize("folder,count", [("flowers/images", 40), ("tiny_coco", 20), ("rsicd/images", 60), ("coco300/images", 60)])
def test_photos(folder, count, tmp_path):
    paths = [p for p in sample(files(folder), count) if p.suffix == ".jpg"]
    loaded, _ = compare(paths, tmp_path)
    assert len(loaded) == len(paths)


def compare_floats(paths, scratch, size):
    pipeline = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    for path, got in zip(paths, ours(paths, scratch, size=size, dtype="f32")):
        want = pipeline(Image.open(path).convert("RGB")).numpy()
        assert got.dtype == want.dtype and got.shape == want.shape
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), path


@needs_data
def test_floats(loadable_odd_files, tmp_path):
    photos = [p for folder in ("flowers/images", "tiny_coco", "rsicd/images", "coco300/images") for p in files(folder)[::25]
              if p.suffix == ".jpg"]
    compare_floats(sample(photos, 40) + sample(loadable_odd_files, 40), tmp_path, 224)


# ---- pictures made here ----


def content(generator, width, height, channels):
    kind = generator.integers(3)
    if kind == 0:
        return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if kind == 1:
        y, x = np.mgrid[0:height, 0:width]
        return np.stack([(128 + 127 * np.sin(x / (3 + 7 * c) + y / (5 + c))) for c in range(channels)], -1).astype(np.uint8)
    blocks = generator.random((height // 8 + 1, width // 8 + 1, channels)) > 0.5
    return (blocks * np.uint8(255)).repeat(8, 0).repeat(8, 1)[:height, :width]


SIZES = [(1, 1), (1, 500), (500, 1), (3000, 2), (2, 3000), (224, 224), (223, 225), (448, 224), (224, 448), (97, 131), (640, 480),
         (7, 9), (16, 16), (17, 33), (1200, 800), (2500, 1900), (8, 8), (65500, 3), (3, 65500)]


def make_picture(seed, width=None, height=None, mode=None):
    generator = np.random.default_rng(seed)
    if width is None:
        width, height = (int(n) for n in generator.integers(1, 700, 2))
    mode = mode or ["RGB", "RGB", "RGB", "L", "CMYK"][generator.integers(5)]
    pixels = content(generator, width, height, {"RGB": 3, "L": 1, "CMYK": 4}[mode])
    image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
    options = {"quality": int(generator.integers(1, 101)), "progressive": bool(generator.random() < 0.4),
               "optimize": bool(generator.random() < 0.3)}
    if mode == "RGB":
        options["subsampling"] = int(generator.integers(3))
    if generator.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = int(generator.integers(0, 10))
        options["exif"] = exif.tobytes()
    if generator.random() < 0.2:
        options["icc_profile"] = generator.bytes(int(generator.integers(1, 70000)))
    out = io.BytesIO()
    with room_for_large_segments():
        image.save(out, "JPEG", **options)
    return out.getvalue()


@contextlib.contextmanager
def room_for_large_segments():
    """For writing. Reading is to go in the pieces that Pillow takes by default."""
    before, ImageFile.MAXBLOCK = ImageFile.MAXBLOCK, 1 << 26
    try:
        yield
    finally:
        ImageFile.MAXBLOCK = before


def write_all(folder, pictures):
    paths = []
    for i, data in enumerate(pictures):
        paths.append(folder / f"p{i:04}.jpg")
        paths[-1].write_bytes(data)
    return paths


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pictures = [make_picture(i, *size) for i, size in enumerate(SIZES)]
    pictures += [make_picture(1000 + i) for i in range(600 if FULL else 80)]
    return write_all(tmp_path_factory.mktemp("made"), pictures)


@pytest.mark.parametrize("size,exif", [(224, "ignore"), (224, "apply"), (1, "ignore"), (65, "apply"), (333, "ignore")])
def test_made_pictures(made, size, exif, tmp_path):
    loaded, _ = compare(made, tmp_path, size=size, exif=exif)
    assert len(loaded) == len(made)


def test_made_floats(made, tmp_path):
    compare_floats(made[::4], tmp_path, 64)


def test_every_orientation(tmp_path):
    """Each of the eight, for gray and color, taller and wider than the target, and with a side that stays."""
    pictures = []
    for value in range(10):
        for mode in ("RGB", "L"):
            for width, height in ((90, 40), (40, 90), (50, 70), (70, 50), (50, 50), (20, 10)):
                exif = Image.Exif()
                exif[0x0112] = value
                pixels = content(np.random.default_rng(value), width, height, 3)
                out = io.BytesIO()
                Image.fromarray(pixels).convert(mode).save(out, "JPEG", quality=95, exif=exif.tobytes())
                pictures.append(out.getvalue())
    loaded, _ = compare(write_all(tmp_path, pictures), tmp_path, size=50, exif="apply")
    assert len(loaded) == len(pictures)


def exif_block(rng):
    """An EXIF block whose directory is right in most places."""
    big = rng.random() < 0.5
    order = ">" if big else "<"
    magic = rng.choice([b"MM\0*", b"MM*\0"] if big else [b"II*\0", b"II\0*"])
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 0: 1}
    formats = {3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 11: "f", 12: "d", 13: "L", 16: "Q"}
    entries, tail = b"", b""
    count = rng.randint(0, 6)
    tail_at = 8 + 2 + 12 * count + 4
    for _ in range(count):
        tag = rng.choice([0x0112, 0x0112, 0x010F, 0x011A, 0x8769, 0x9000])
        kind = rng.choice([3, 3, 3, 4, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 0])
        values = rng.choice([1, 1, 1, 1, 2, 0, 3])
        value = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 8, 0, 9, 6])
        if kind in (5, 10):
            data = struct.pack(order + "LL", value * rng.choice([1, 2, 3]), rng.choice([1, 1, 2, 3, 0])) * values
        elif kind in formats:
            data = struct.pack(order + formats[kind], value) * values
        else:
            data = bytes([value]) * (values * sizes.get(kind, 1))
        if len(data) > 4:
            offset = tail_at + len(tail)
            tail += data
            data = struct.pack(order + "L", offset if rng.random() < 0.9 else rng.choice([0, 10 ** 6, 2 ** 32 - 1]))
        entries += struct.pack(order + "HHL", tag, kind, values) + data.ljust(4, b"\0")
    start = 8 if rng.random() < 0.95 else rng.randint(0, 40)
    block = magic + struct.pack(order + "L", start) + struct.pack(order + "H", count + (rng.random() < 0.1)) + entries
    block += struct.pack(order + "L", 0) + tail
    if rng.random() < 0.1:
        block = block[:rng.randint(8, len(block))]
    return b"Exif\0\0" + block


def with_exif(picture, blocks):
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(b) + 2) + b for b in blocks)
    return picture[:2] + segments + picture[2:]


def test_exif_directories(tmp_path):
    rng = random.Random(5)
    out = io.BytesIO()
    Image.fromarray(content(np.random.default_rng(3), 40, 24, 3)).save(out, "JPEG", quality=95, dpi=(72, 72))
    pictures = []
    for _ in range(2000 if FULL else 400):
        blocks = [exif_block(rng) for _ in range(1 if rng.random() < 0.9 else 2)]
        if rng.random() < 0.05:
            blocks.insert(0, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation=\"6\"/>")
        pictures.append(with_exif(out.getvalue(), blocks))
    compare(write_all(tmp_path, pictures), tmp_path, size=20, exif="apply", allow_unopened=True)


def header_faults():
    """Segments that Pillow's header parser may trip over, and some that it does not."""
    for start in (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0", b"abcd"):
        for rest in (0, 1, 3, 4, 24):
            yield b"\xff\xe1", b"Exif\0\0" + start + (b"\0\0\0\x08" + bytes(20))[:rest]
    for n in range(4):
        yield b"\xff\xe1", b"Exif\0\0" + b"II*\0"[:n]
    yield b"\xff\xe1", b"Exif\0XII*\0"
    whole = b"8BIM\x04\x04\0\0\0\0\0\0"
    for resources in (b"8BIM", b"8BIM\x03", b"8BIM\x03\xed", b"8BIM\x03\xed\0", b"8BIM\x03\xed\0\0\0\0\0\x10", b"8BIM\x03\xed\x05ab",
                      whole, whole + b"8BIM\x03\xed", b"8BIM\x03\xed\0\0\0\0\0\x03abc\08BIM\1\2", b"8BIM\x03\xed\0\0\0\0\0\x20abcd8BIM\1\2"):
        yield b"\xff\xed", b"Photoshop 3.0\0" + resources
    for n in (4, 6, 7, 11, 12):
        yield b"\xff\xe0", b"JFIF\0\1\1\1\0H\0H"[:n]
        yield b"\xff\xee", b"Adobe\0\x64\0\0\0\0\1"[:n]


@pytest.mark.skipif(not trips_over_exif(), reason="this Pillow reads on behind headers that 9.4 refuses")
def test_header_and_data_at_fault(tmp_path):
    """Where Pillow trips over the header alone we may decode; where the data is damaged as well, nobody does. With and
    without a resolution in JFIF, since Pillow looks for it in EXIF only where it has none."""
    out = io.BytesIO()
    Image.fromarray(content(np.random.default_rng(4), 64, 64, 3)).save(out, "JPEG", quality=90)
    pictures = []
    for unit in (0, 1, 2):
        clean = bytearray(out.getvalue())
        clean[13] = unit
        damaged = bytearray(clean)
        at = damaged.index(b"\xff\xda") + 214
        damaged[at:at + 60] = bytes(60)
        for marker, body in header_faults():
            segment = marker + (len(body) + 2).to_bytes(2, "big") + body
            for place in (2, 20):
                pictures.append(bytes(damaged[:place]) + segment + bytes(damaged[place:]))
    opened = 0
    for index, path in enumerate(write_all(tmp_path, pictures)):
        try:
            with Image.open(path) as image:
                image.load()
            loads = True
        except OSError:
            loads = False
        opened += loads
        ours = subprocess.run([PREPCTL, "inspect", "image", path, "--size", "16", "--out", tmp_path / "out.safetensors"], capture_output=True, check=False)
        assert (ours.returncode == 0) == loads, (index, loads, pictures[index][:60], ours.stderr)
    assert 0 < opened < len(pictures)


def test_cut_off(tmp_path):
    """Every prefix is refused where Pillow refuses it, and only there."""
    pictures = []
    for seed in range(6):
        whole = make_picture(seed, 60, 45)
        pictures += [whole[:n] for n in range(0, len(whole) + 1, max(1, len(whole) // 40))]
        pictures += [whole[:len(whole) - n] for n in range(6)] + [whole + b"\0" * 70000, whole + whole]
    compare(write_all(tmp_path, pictures), tmp_path, size=16, allow_unopened=True)


def test_damaged(tmp_path):
    """Random bytes changed, inserted and removed: the same guesses at what is missing, or refused by both."""
    rng = random.Random(11)
    sources = [make_picture(seed, 90, 70) for seed in range(12)]
    # Larger than the pieces that Pillow feeds the decoder.
    sources += [make_picture(seed, 500, 400, "RGB") for seed in range(3)]
    pictures = []
    for _ in range(3000 if FULL else 500):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            at = rng.randrange(2, len(data))
            what = rng.random()
            if what < 0.6:
                data[at] = rng.randrange(256)
            elif what < 0.8:
                del data[at:at + rng.randint(1, 8)]
            else:
                data[at:at] = rng.choice([b"\xff\xd9", b"\xff\xd0", b"\0", b"\xff", b"\xff\xfe\0\4ab", rng.randbytes(5)])
        pictures.append(bytes(data))
    compare(write_all(tmp_path, pictures), tmp_path, size=32, allow_unopened=True)


def test_a_limit_for_libjpeg_in_the_environment(tmp_path):
    """JPEGMEM: a sound progressive picture would be damaged by it."""
    out = io.BytesIO()
    Image.fromarray(content(np.random.default_rng(8), 900, 700, 3)).save(out, "JPEG", progressive=True)
    path, tensor = write_all(tmp_path, [out.getvalue()])[0], tmp_path / "out.safetensors"
    subprocess.run([PREPCTL, "inspect", "image", path, "--size", "32", "--dtype", "u8", "--out", tensor], env={**os.environ, "JPEGMEM": "1"}, check=True)
    assert difference(path, read_tensor(tensor), oracle(path, 32)) is None


def test_tables_in_front(tmp_path):
    """Tables in a stream of their own, then a picture without them; also once more with other tables, and alone."""
    image = Image.fromarray(content(np.random.default_rng(9), 70, 50, 3))
    streams = {}
    for quality in (30, 90):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        whole = out.getvalue()
        tables, rest, at = b"", b"", 2
        while whole[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(whole[at + 2:at + 4], "big")
            if whole[at + 1] in (0xC4, 0xDB):
                tables += whole[at:end]
            else:
                rest += whole[at:end]
            at = end
        streams[0, quality] = whole
        streams[1, quality] = whole[:2] + tables + b"\xff\xd9"
        streams[2, quality] = whole[:2] + rest + whole[at:]
    pictures = [streams[1, 30] + streams[2, 30], streams[1, 90] + streams[1, 30] + streams[2, 30], streams[1, 90] + streams[2, 30],
                streams[2, 30], streams[1, 30], streams[1, 30] + streams[0, 90]]
    loaded, _ = compare(write_all(tmp_path, pictures), tmp_path, size=30)
    assert len(loaded) == 4


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO"])
def test_other_formats(kind, tmp_path):
    path = tmp_path / "picture.jpg"  # the name does not matter
    Image.new("RGB", (20, 20), (200, 10, 10)).save(path, kind)
    got, = ours([path], tmp_path)
    assert isinstance(got, Refused) and NAMES[kind] in got.reason and "not JPEG" in got.reason


def test_options(tmp_path):
    path, = write_all(tmp_path, [make_picture(1, 30, 20)])
    for options in (["--size", "0"], ["--size", "2049"], ["--dtype", "u16"], ["--exif", "maybe"], ["--sise", "3"]):
        done = subprocess.run([PREPCTL, "inspect", "image", path, *options, "--out", tmp_path / "x"], capture_output=True, check=False)
        assert done.returncode == 2 and options[0].encode() in done.stderr, options
    done = subprocess.run([PREPCTL, "inspect", "image", path], capture_output=True, check=False)
    assert done.returncode == 2 and b"--out" in done.stderr
    done = subprocess.run([PREPCTL, "inspect", "image", tmp_path / "none.jpg", "--out", tmp_path / "x"], capture_output=True, check=False)
    assert done.returncode == 1 and b"none.jpg" in done.stderr and b"No such file" in done.stderr
    assert not (tmp_path / "x").exists()
    got, = ours([path], tmp_path, size=2048)
    assert got.shape == (2048, 2048, 3)
