"""The tests of this folder, on devices: simulated ones, or the GPUs of this machine.

``SPILLOVER_SIMCUDA`` names the folder of a simulated CUDA (``.ci/run`` sets it). It is built here,
and each group of tests runs in a process in which torch sees simulated devices.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GROUPS = {
    "one": ("test_one_device.py", {}),
    "two": ("test_two_devices.py", {"SIMCUDA_DEVICES": "2"}),
    "no double": ("test_no_double.py", {"SIMCUDA_NO_DOUBLE": "1"}),
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the simulated CUDA, built for this torch."""
    source = os.environ.get("SPILLOVER_SIMCUDA")
    if not source:
        pytest.skip("SPILLOVER_SIMCUDA names no folder of a simulated CUDA")
    if shutil.which("g++") is None:
        pytest.skip("the simulated CUDA needs g++")
    folder = tmp_path_factory.mktemp("simcuda")
    environment = {**os.environ, "OUT": str(folder), "PYTHON": sys.executable}
    subprocess.run(["sh", f"{source}/build.sh"], env=environment, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_on_simulated_devices(group: str, simulated: Path) -> None:
    file, environment = GROUPS[group]
    run_tests(file, {**environment, "PYTHONPATH": f"{simulated}{os.pathsep}{ROOT}"})


@pytest.mark.slow
@pytest.mark.parametrize("group", ["one", "two"])
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no GPU here")
def test_on_gpus(group: str) -> None:
    run_tests(GROUPS[group][0], {})


def run_tests(file: str, environment: dict[str, str]) -> None:
    """Run the tests of a file in another process, and fail with what it prints."""
    inherited = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    del inherited["CUDA_VISIBLE_DEVICES"]
    if visible := inherited.pop("SPILLOVER_GPUS", ""):
        inherited["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "--durations=0", str(HERE / file)],
        env={**inherited, "SPILLOVER_DEVICE_TESTS": "1", **environment},
        capture_output=True, text=True, timeout=400, check=False, cwd=ROOT,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode in (0, 5), done.stdout[-6000:] + done.stderr[-2000:]
    # A file that finds too few devices is not collected; on simulated ones that is a failure.
    assert done.returncode == 0 or "SIMCUDA_DEVICES" not in environment, done.stdout
