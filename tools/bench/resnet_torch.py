#!/usr/bin/python3
"""PyTorch's side of bench_resnet: the same tower, the same sizes, the same number of threads.

    resnet_torch.py ARCH SIZE BATCH STEPS [THREADS]

Prints the best step's pictures/s, forward and forward + backward, in both memory layouts that PyTorch knows.
"""
import sys
import time

import torch
import torchvision


def measure(arch, size, batch, steps, layout):
    torch.manual_seed(0)
    model = getattr(torchvision.models, arch)(weights=None)
    model.fc = torch.nn.Linear(model.fc.in_features, 768)
    model = model.train().to(memory_format=layout)
    image = torch.randn(batch, 3, size, size).to(memory_format=layout)
    dv = torch.randn(batch, 768)
    forward = step = float("inf")
    for i in range(steps + 2):
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        v = model(image)
        middle = time.perf_counter()
        v.backward(dv)
        end = time.perf_counter()
        if i >= 2:
            forward, step = min(forward, middle - start), min(step, end - start)
    return batch / forward, batch / step


def main():
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    arch, size, batch, steps = sys.argv[1], *map(int, sys.argv[2:5])
    threads = int(sys.argv[5]) if len(sys.argv) > 5 else 2
    torch.set_num_threads(threads)
    for name, layout in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
        forward, step = measure(arch, size, batch, steps, layout)
        print(f"PyTorch {torch.__version__}, {threads} threads, {name}: {arch} {size} px, batch {batch}: "
              f"{step:.2f} pictures/s forward + backward, {forward:.2f} forward", flush=True)


if __name__ == "__main__":
    main()
