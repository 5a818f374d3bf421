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
    """Return the GPUs and TPUs that Keras's backend can use, such as ``["GPU:0"]``.

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

        devices = tensorflow.config.list_physical_devices()
        return [d.name.split(":", 1)[1] for d in devices if d.device_type in ("GPU", "TPU")]
    if backend == "jax":
        import jax

        return [f"{d.platform.upper()}:{d.id}" for d in jax.devices() if d.platform != "cpu"]
    import torch

    return [f"GPU:{index}" for index in range(torch.cuda.device_count())]


def describe_cpu() -> str:
    """Return processor and core count in a few words, such as ``"AMD EPYC, 2 cores"``."""
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        lines = cpu_info.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {num_cores()} cores"


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
