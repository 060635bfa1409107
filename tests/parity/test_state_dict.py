"""The lists of names that the C test of weights compares the model with are PyTorch's state dicts.

    python3 tests/parity/test_state_dict.py     writes them again
"""
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

sys.path.insert(0, str(Path(__file__).resolve().parent))
from torch_model import PRESETS, FusionModel  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
DTYPES = {torch.float32: "F32", torch.int64: "I64"}


# golden list -> preset, image encoder, sizes of the BERT: as the C test opens them
MODELS = {preset: (preset, None, None) for preset in PRESETS}
MODELS.update({arch: ("tiny", arch, dict(layers=3, width=96, heads=3, inner=200, positions=40, types=1))
               for arch in ("resnet34", "resnet101", "resnet152")})


def listing(name):
    preset, image, text = MODELS[name]
    lines = []
    for name, value in FusionModel(preset, image=image, text=text).state_dict().items():
        shape = "(" + ", ".join(str(n) for n in value.shape) + ")"
        lines.append(f"{name} {DTYPES[value.dtype]} {shape}\n")
    return "".join(lines)


@pytest.mark.parametrize("name", MODELS)
def test_listing(name):
    assert (GOLDEN / f"state_{name}.txt").read_text() == listing(name)


if __name__ == "__main__":
    for each in MODELS:
        (GOLDEN / f"state_{each}.txt").write_text(listing(each))
