"""One MeasurementSet imaged on the CPU and on the GPU: the same channels stop for the same reasons, with the same flux.

In: nothing; the MeasurementSet is simulated. Out: a table as Markdown on standard output, and JSON if asked for. The exit
status is 1 if any stop reason differs, or a flux by more than a thousandth of the largest.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpucube import run
from gpucube.bench.machine import machine
from gpucube.devices.choice import Hardware, find_hardware
from gpucube.schema.parameters import make_parameters
from gpucube.schema.validation import validated
from gpucube.simulate import SimulationParameters, simulate_ms
from gpucube.text import markdown_table

MEDIUM: dict[str, Any] = {"array": "vla-c", "ntime": 190, "nchan": 117, "imsize": 512, "cell": 4.0}
TINY: dict[str, Any] = {"array": "vla-d", "ntime": 5, "nchan": 6, "imsize": 64, "cell": 20.0}


def host() -> Hardware:
    """The GPU whose kernels run on the host."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
    from hosts.host_backend import HostCuda

    return HostCuda().hardware()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--on-host", action="store_true", help="a small MeasurementSet, and kernels run on the host")
    options = parser.parse_args()
    sizes = TINY if options.on_host else MEDIUM
    with tempfile.TemporaryDirectory(prefix="gpucube-main-job-") as folder:
        vis = simulate_ms(validated(SimulationParameters, {"out": Path(folder) / "sim.ms"} | sizes)).ms
        results = {}
        for device in ("cpu", "cuda"):
            hardware = host() if options.on_host and device == "cuda" else find_hardware(device)
            if device == "cuda":
                hardware = replace(hardware, gpu_count=1)  # more would need dask-cuda
            given = {"vis": vis, "imagename": Path(folder) / device, "imsize": sizes["imsize"], "cell": sizes["cell"]}
            how = {"weighting": "briggs", "niter": 100_000, "nsigma": 3, "device": device, "quiet": True}
            results[device] = run.image(make_parameters(**given, **how), hardware=hardware)
    cpu, cuda = results["cpu"], results["cuda"]
    pairs = list(zip(cpu.channels, cuda.channels, strict=True))
    largest = max(abs(a.model_flux or 0.0) for a, _ in pairs)
    apart = max(abs((a.model_flux or 0.0) - (b.model_flux or 0.0)) for a, b in pairs) / largest
    found = {
        "channels": len(pairs),
        "same_stop_reason": sum(a.stop_code == b.stop_code for a, b in pairs),
        "same_iterations": sum(a.iterations == b.iterations for a, b in pairs),
        "largest_flux_difference": apart,
        "cpu_seconds": cpu.summary["wall_seconds"],
        "cuda_seconds": cuda.summary["wall_seconds"],
        "device_memory_peak": cuda.summary.get("device_memory_peak"),
        "device_memory_predicted": cuda.summary.get("device_memory_predicted"),
    }
    print(markdown_table([["figure", "value"], *([name, f"{value}"] for name, value in found.items())]))
    if options.json:
        options.json.write_text(json.dumps({"hardware": machine(), "job": sizes, **found}, indent=1) + "\n")
    return int(found["same_stop_reason"] < len(pairs) or apart > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
