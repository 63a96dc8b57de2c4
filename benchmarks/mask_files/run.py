"""Packing and unpacking a 2:4 mask, in GB/s of bools, beside `np.packbits` and `np.unpackbits`.

python benchmarks/mask_files/run.py [--weights 200000000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from niwaki.masks.packed import Packing, bits, blocks
from niwaki.masks.patterns import Pattern

ROUNDS = 5


def cpu_s(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=200_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pattern = Pattern.parse("2:4")
    packing = Packing(pattern)
    numbers = torch.randint(0, 6, (arguments.weights // 4,), dtype=torch.uint8)
    mask = pattern.mask(numbers, (1, arguments.weights))
    packed = packing.pack(numbers)
    flat = mask.numpy().reshape(-1)
    bitmap = np.packbits(flat)
    print(f"{8 * packed.numel() / arguments.weights:.4f} bit per weight packed, 1 as a bitmap")
    ways = {
        "numbers -> packed": lambda: packing.pack(numbers),
        "packed -> numbers": lambda: packing.unpack(packed, len(numbers), name="mask"),
        "numbers -> mask": lambda: pattern.mask(numbers, mask.shape),
        "mask -> numbers": lambda: pattern.numbers(mask),
        "numbers -> published bits": lambda: [bits(pattern, block) for block in blocks(numbers)],
        "np.packbits of the mask": lambda: np.packbits(flat),
        "np.unpackbits": lambda: np.unpackbits(bitmap),
    }
    for name, work in ways.items():
        print(f"{name:28} {arguments.weights / 1e9 / cpu_s(work):.2f} GB/s")


if __name__ == "__main__":
    main()
