"""What is said of this machine."""

import sys
from types import SimpleNamespace

import pytest

from cifarlib import devices

XEON = "vendor_id\t: GenuineIntel\nmodel name\t: A Xeon \nflags\t\t: fpu {}\n"


@pytest.fixture
def cpu_info(monkeypatch, tmp_path):
    """Return a function that fakes /proc/cpuinfo."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "Path", lambda name: path)
    monkeypatch.setattr(devices, "num_cores", lambda: 2)
    monkeypatch.setattr(devices.platform, "processor", lambda: "some processor")
    return path.write_text


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("avx2 avx512f amx_bf16", "A Xeon with AMX, 2 cores"),
        ("avx2 avx512f", "A Xeon with AVX-512, 2 cores"),
        ("avx2", "A Xeon with AVX2, 2 cores"),
        ("sse2", "A Xeon, 2 cores"),
    ],
)
def test_a_processor_is_told_with_the_fastest_of_its_units(cpu_info, flags, told):
    cpu_info(XEON.format(flags))
    assert devices.describe_cpu() == told


def test_one_core_is_no_cores(cpu_info, monkeypatch):
    monkeypatch.setattr(devices, "num_cores", lambda: 1)
    assert devices.describe_cpu() == "some processor, 1 core"


def test_where_linux_names_no_model_python_does(cpu_info):
    cpu_info("processor\t: 0\nFeatures\t: fp asimd\n")
    assert devices.describe_cpu() == "some processor with NEON, 2 cores"


def test_a_processor_is_told_where_there_is_no_linux(cpu_info):
    assert devices.describe_cpu() == "some processor, 2 cores"
    assert devices.cpu_features() == frozenset()


def test_accelerators_are_told_by_their_names(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    tensorflow = pytest.importorskip("tensorflow")
    listed = {"GPU": ["the first", "the second"], "TPU": ["the third"]}
    names = {"the first": {"device_name": "Tesla T4"}, "the second": {}}
    config = tensorflow.config
    monkeypatch.setattr(config, "list_physical_devices", listed.get)
    monkeypatch.setattr(config.experimental, "get_device_details", names.get)
    assert devices.accelerators() == ["Tesla T4", "GPU", "TPU"]


def test_processors_are_no_accelerators(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    found = [
        SimpleNamespace(platform="cpu", device_kind="cpu"),
        SimpleNamespace(platform="gpu", device_kind="NVIDIA H200"),
    ]
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(devices=lambda: found))
    assert devices.accelerators() == ["NVIDIA H200"]


@pytest.mark.parametrize(
    ("kind", "count", "told"),
    [("cuda", 2, ["GPU 0", "GPU 1"]), ("mps", 1, ["MPS"]), ("xpu", 1, ["XPU"]), (None, 0, [])],
)
def test_accelerators_of_pytorch_are_told_by_name_or_kind(monkeypatch, kind, count, told):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    accelerator = SimpleNamespace(
        is_available=lambda: kind is not None,
        current_accelerator=lambda: SimpleNamespace(type=kind),
        device_count=lambda: count,
    )
    cuda = SimpleNamespace(get_device_name=lambda place: f"GPU {place}")
    stand_in = SimpleNamespace(accelerator=accelerator, cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    assert devices.accelerators() == told
