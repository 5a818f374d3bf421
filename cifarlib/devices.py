"""What hardware and libraries this machine has, for records and for choosing a budget.

The one low module that asks Keras, because only Keras knows which devices its backend can
use. Not for placing work on devices: training does that.
"""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

LIBRARIES = ("numpy", "scikit-learn", "pillow", "keras", "tensorflow", "jax", "torch")


def accelerators() -> list[str]:
    """Return the GPUs and TPUs that Keras's backend can use, such as ``["NVIDIA H200"]``.

    Imports Keras and its backend, which takes seconds. ``keras.distribution.list_devices`` is
    not asked: it claims memory on TensorFlow and does not exist on PyTorch.
    """
    try:
        import keras
    except ImportError:
        return []
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        described = tensorflow.config.experimental.get_device_details
        found = tensorflow.config.list_physical_devices
        gpus = [described(gpu).get("device_name") or "GPU" for gpu in found("GPU")]
        return gpus + ["TPU"] * len(found("TPU"))
    if backend == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    import torch

    if not torch.accelerator.is_available():
        return []
    found = torch.accelerator.current_accelerator()
    places = range(torch.accelerator.device_count())
    if found.type == "cuda":
        return [torch.cuda.get_device_name(place) for place in places]
    return [found.type.upper() for _ in places]  # Apple's "MPS", Intel's "XPU"


def describe() -> str:
    """Return what Keras's backend computes on: the first accelerator, else `describe_cpu`.

    Asks Keras; `settings.hardware` does so only where it may find one.
    """
    return next(iter(accelerators()), None) or describe_cpu()


def describe_cpu() -> str:
    """Return processor and cores in a few words, such as ``"AMD EPYC with AVX-512, 2 cores"``."""
    name = platform.processor() or platform.machine()
    told = re.search(r"^model name\s*: (.+)$", _cpu_info(), re.MULTILINE)
    found = cpu_features()
    unit = next((f" with {unit}" for flag, unit in _UNITS.items() if flag in found), "")
    cores = "1 core" if num_cores() == 1 else f"{num_cores()} cores"
    return f"{told[1].strip() if told else name}{unit}, {cores}"


# What multiplies many numbers at once, the fastest first; a factor of five lies between them.
_UNITS = {"amx_bf16": "AMX", "avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE", "asimd": "NEON"}


def cpu_features() -> frozenset[str]:
    """Return the words in which Linux describes the processor, such as ``"amx_bf16"``."""
    return frozenset(_cpu_info().split())


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def peak_memory(process: int | str = "self") -> int:
    """Return the peak resident memory of a process in bytes, 0 where the system does not tell.

    Args:
        process: its number, or ``"self"``.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    except (OSError, TypeError):
        return 0


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of Python and of those of ``LIBRARIES`` that are installed."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
