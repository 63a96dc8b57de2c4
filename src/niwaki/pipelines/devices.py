"""What accelerators and processors can do at most, from their makers' data sheets, for modelled latencies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Dense bfloat16 matrix products, and memory bandwidth, both at their peak."""

    flops_per_s: float
    bytes_per_s: float


# Dense rates: NVIDIA's sheets print those with 2:4 sparsity for H100, H200 and L4, twice as high.
DEVICES = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM: 1,979 TFLOPS with sparsity, 3.35 TB/s.
    "h100": Device(flops_per_s=989.5e12, bytes_per_s=3.35e12),
    # NVIDIA H200 Tensor Core GPU data sheet, SXM: 1,979 TFLOPS with sparsity, 4.8 TB/s.
    "h200": Device(flops_per_s=989.5e12, bytes_per_s=4.8e12),
    # NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM: 312 TFLOPS, 2,039 GB/s.
    "a100": Device(flops_per_s=312e12, bytes_per_s=2.039e12),
    # NVIDIA L4 Tensor Core GPU data sheet: 242 TFLOPS with sparsity, 300 GB/s.
    "l4": Device(flops_per_s=121e12, bytes_per_s=300e9),
    # Intel Xeon Platinum 8480+: 56 cores at 2.0 GHz, 8 channels of DDR5-4800; its matrix unit (AMX) does
    # 1,024 bfloat16 operations a cycle and core (Intel's optimisation reference manual).
    "xeon-8480": Device(flops_per_s=56 * 2.0e9 * 1024, bytes_per_s=8 * 4800e6 * 8),
}
