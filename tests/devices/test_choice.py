"""The choice of hardware, and the devices that a process keeps."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from jobs import geometry

from gpucube.devices.base import ImagingSettings
from gpucube.devices.choice import Devices, Hardware, SeenGpus, find_hardware
from gpucube.devices.cpu.device import CpuDevice
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cuda.kind import CudaKind
from gpucube.errors import GpucubeError

REASON = "CuPy is not installed (pip install 'gpucube[cuda12]' or 'gpucube[cuda13]')"
NONE = [SeenGpus(why_not=REASON)]
TWO = [SeenGpus(count=1, memory=70), SeenGpus(count=1, memory=80)]


def test_a_gpu_that_cannot_be_used_is_refused_in_one_line() -> None:
    with pytest.raises(GpucubeError, match=r"`device='cuda'` cannot be used: CuPy is not .*; or use `device='cpu'`"):
        find_hardware("cuda", lambda: NONE)
    with pytest.raises(GpucubeError, match="CuPy is not installed"):
        find_hardware("cuda", lambda: TWO + NONE)


def test_auto_means_gpus_only_where_every_process_can_use_one() -> None:
    assert find_hardware("auto", lambda: TWO) == Hardware(kind=CudaKind(), gpu_count=2, gpu_memory=70)
    on_cores = Hardware(kind=CpuKind(), note=f"imaging on CPU cores: {REASON}")
    assert find_hardware("auto", lambda: NONE) == on_cores
    assert find_hardware("auto", lambda: TWO + NONE) == on_cores


def test_for_cpu_cores_no_gpu_is_looked_for() -> None:
    assert find_hardware("cpu", lambda: pytest.fail("nobody asked for a GPU")) == Hardware(kind=CpuKind())


def test_a_thread_keeps_its_device_until_something_goes_wrong() -> None:
    devices, settings = Devices(CpuKind()), ImagingSettings(geometry=geometry(16, 16))
    used: list[CpuDevice] = []

    def use() -> None:
        with devices.lend(settings) as device:
            used.append(device)

    use()
    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    with pytest.raises(ZeroDivisionError), devices.lend(settings):
        raise ZeroDivisionError
    use()
    first, again, in_thread, after_failure = used
    assert again is first
    assert in_thread is not first
    assert after_failure is not first


COUNT_PAGE_FAULTS = """
import gc, resource
import numpy as np
from gpucube.devices.choice import Devices
from gpucube.devices.cpu.kind import CpuKind

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        arrays = [np.ones(7 << 19) for _ in range(3)]  # three times 28 MiB
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
outside = faults()
kept = Devices(CpuKind()).__enter__()
gc.collect()
faults()
inside = faults()
print(outside, inside)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_while_a_process_works_it_keeps_the_memory_that_it_frees() -> None:
    """As a worker of a cluster does, which never leaves the context: memory that was returned costs page faults."""
    result = subprocess.run([sys.executable, "-c", COUNT_PAGE_FAULTS], capture_output=True, text=True, check=True)
    outside, inside = map(int, result.stdout.split())
    assert outside > 1000
    assert inside < 0.02 * outside


def test_a_driver_that_does_not_answer_dask_cuda_is_reported_in_one_line(tmp_path, monkeypatch) -> None:
    """Some containers have no NVML. Stand-ins for dask-cuda and its access to the driver fail as those packages do."""
    (tmp_path / "pynvml.py").write_text("class NVMLError(Exception): pass\n")
    (tmp_path / "dask_cuda.py").write_text(
        "import pynvml\ndef LocalCUDACluster(**options): raise pynvml.NVMLError('NVML Shared Library Not Found')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pynvml", "dask_cuda"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(
        GpucubeError, match=r"cannot ask the driver .*Library Not Found\): use one GPU with `workers=1`"
    ):
        CudaKind().cluster_factory()(n_workers=2)
    for name in ("pynvml", "dask_cuda"):
        monkeypatch.delitem(sys.modules, name)
