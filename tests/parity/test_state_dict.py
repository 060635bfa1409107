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


def listing(preset):
    lines = []
    for name, value in FusionModel(preset).state_dict().items():
        shape = "(" + ", ".join(str(n) for n in value.shape) + ")"
        lines.append(f"{name} {DTYPES[value.dtype]} {shape}\n")
    return "".join(lines)


@pytest.mark.parametrize("preset", PRESETS)
def test_listing(preset):
    assert (GOLDEN / f"state_{preset}.txt").read_text() == listing(preset)


if __name__ == "__main__":
    for each in PRESETS:
        (GOLDEN / f"state_{each}.txt").write_text(listing(each))
