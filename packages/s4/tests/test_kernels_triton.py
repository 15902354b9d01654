"""The Triton kernels: on a GPU where there is one, and in Triton's interpreter where triton is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.parametrize("interpreted", [True, pytest.param(False, marks=pytest.mark.gpu)])
def test_the_triton_kernels_give_the_written_out_sums_and_gradients(interpreted):
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpreted else "0"}
    if interpreted:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    checks = Path(__file__).with_name("triton_forms.py")
    command = [sys.executable, "-m", "pytest", str(checks), "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout, run.stdout


@pytest.mark.gpu
def test_on_cuda_the_triton_kernels_are_chosen():
    from s4_impl.kernel import S4Kernel

    assert S4Kernel(2, d_state=4).cuda()._backend() == "triton"
    assert S4Kernel(2, d_state=4)._backend() == "fft"
