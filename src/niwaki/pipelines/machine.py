"""The machine and what is installed on it: for the manifest of a run, and for bug reports."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import niwaki
from niwaki.ground.corpus import default_cache

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "datasets", "lm_eval")
_FURTHER_PACKAGES = ("huggingface_hub", "numpy", "pydantic", "trl", "math-verify", "wandb", "tensorboard")
# Settings that change what a run does. A list, because others hold tokens and addresses.
_VARIABLES = (
    "NIWAKI_CACHE",
    "NIWAKI_TRACEBACK",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "TOKENIZERS_PARALLELISM",
    "NO_COLOR",
)


def versions() -> dict[str, str]:
    """Python and the packages that results depend on; those that are not installed are left out."""
    return {"python": platform.python_version()} | {n: v for n in PACKAGES if (v := version_of(n))}


def version_of(package: str) -> str | None:
    """The installed version of a package, if it is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in bytes, and the names of the accelerators."""
    return {
        "cpu": _processor(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def environment() -> dict[str, Any]:
    """What a bug report needs: versions, machine, and settings. No token, and no name of a home folder."""
    machine = hardware()
    cuda = {"cuda": torch.version.cuda, "driver": _driver()} if machine["accelerators"] else {}
    return {
        "niwaki": niwaki.__version__,
        "platform": platform.platform(),
        **versions(),
        **{name: version_of(name) for name in _FURTHER_PACKAGES},
        "processor": machine["cpu"],
        "cores": machine["num_cpus"],
        "threads of torch": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": machine["memory_bytes"],
        "accelerators": [_accelerator(index) for index in range(torch.cuda.device_count())],
        **cuda,
        "cache": _without_home(str(default_cache())),
        "free_bytes": shutil.disk_usage(Path.cwd()).free,
        "variables": {name: _without_home(os.environ[name]) for name in _VARIABLES if name in os.environ},
    }


def _accelerator(index: int) -> str:
    about = torch.cuda.get_device_properties(index)
    return f"{about.name}, {about.total_memory / 1e9:.0f} GB, compute {about.major}.{about.minor}"


def _driver() -> str | None:
    """What nvidia-smi says; None where there is none or it does not answer."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.splitlines()[0].strip() if asked.stdout.strip() else None


def _without_home(text: str) -> str:
    return text.replace(str(Path.home()), "~")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
