"""The Triton kernels against the oracle: on a GPU, and on small shapes through Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from gla_impl.chunk import gla_chunk
from gla_impl.recurrent import gla_recurrent

GATES = {
    "mild": lambda x: -0.2 * torch.rand_like(x),
    "strong": lambda x: -20 * torch.rand_like(x),
    "scalar": lambda x: -torch.rand_like(x[..., :1]),
    "none": lambda x: None,
}

# The interpreter is chosen when triton is imported, hence another process.
INTERPRETED = """
import torch
from gla_impl.chunk import gla_chunk
from gla_impl.recurrent import gla_recurrent

torch.manual_seed(0)
for length, dk, dv, strength in {cases}:
    q, k, gate = torch.rand(3, 1, length, 1, dk).unbind(0)
    v, state = torch.randn(1, length, 1, dv), torch.randn(1, 1, dk, dv)
    results = []
    for function, options, dtype in (
        (gla_recurrent, {{}}, torch.float64),
        (gla_chunk, {{"backend": "triton", "chunk": 32, "sub": 16}}, torch.float32),
    ):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v, -strength * gate, state)]
        leaves = [x.detach().requires_grad_() for x in leaves]
        output, final = function(*leaves, True, **options)
        (output.sin().sum() + final.cos().sum()).backward()
        results.append([output, final, *(x.grad for x in leaves)])
    for actual, expected in zip(*reversed(results), strict=True):
        error = (actual.double() - expected).norm() / expected.norm()
        assert error < 2e-5, (length, dk, dv, strength, float(error))
print("agree")
"""


def run_interpreted(cases):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED.format(cases=cases)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "agree"


def test_interpreted_kernels_agree_with_the_oracle():
    """Two chunks, the second one cut short; values and all gradients, with a state before and after."""
    run_interpreted([(37, 5, 7, 0.3)])


@pytest.mark.slow
def test_interpreted_kernels_agree_for_more_shapes_and_strong_gates():
    run_interpreted([(1, 16, 16, 0.3), (32, 20, 70, 20.0), (70, 70, 20, 5.0)])


def test_kernels_are_refused_where_they_cannot_run():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    q, k, v = torch.randn(3, 1, 4, 1, 16).unbind(0)
    with pytest.raises(ValueError, match="on a CUDA device, got cpu"):
        gla_chunk(q, k, v, None, backend="triton")
    with pytest.raises(ValueError, match="powers of two, sub >= 16, got 48 and 16"):
        gla_chunk(q, k, v, None, backend="triton", chunk=48)
    with pytest.raises(ValueError, match="the kernels have no outer gate"):
        gla_chunk(q, k, v, None, log_beta=-v.abs(), backend="triton")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:triton")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_kernels_compile_for_gpus_that_are_not_here(dtype):
    """The interpreter takes what the compiler refuses; and tiles must fit the shared memory of small devices."""
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gla_impl import kernels_triton

    block = 32 if dtype == "fp32" else 64
    sizes = {"H": 4, "K": 128, "V": 256, "C": 64, "BK": block, "BV": block, "S": 16}
    float32 = {"gate", "log_b", "states", "d_states", "carried", "d_alpha"}
    kernels = {name: x for name, x in vars(kernels_triton).items() if name.endswith("_kernel")}
    assert len(kernels) == 10
    for name, kernel in kernels.items():
        partial = {"dq", "dk"} if "dq" in kernel.arg_names else set()
        signature, constants = {}, {}
        for position, argument in enumerate(kernel.arg_names):
            if argument in sizes:
                signature[argument], constants[(position,)] = "constexpr", sizes[argument]
            elif argument == "T" or argument.startswith("stride"):
                signature[argument] = "i32"
            else:
                signature[argument] = "*fp32" if argument in float32 | partial else f"*{dtype}"
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        compiled = kernels_triton.triton.compile(source, target=GPUTarget("cuda", 80, 32))
        assert compiled.metadata.shared <= 99 * 1024, name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("length", "dk", "dv"), [(1, 64, 64), (63, 64, 128), (200, 60, 24), (1024, 128, 256)])
def test_kernels_agree_with_the_torch_form(length, dk, dv, gate, dtype):
    device = torch.device("cuda")
    q, k, x = torch.randn(3, 2, length, 2, dk, device=device).unbind(0)
    v, log_alpha = torch.randn(2, length, 2, dv, device=device), GATES[gate](x)
    q, k, v = ((x * scale).to(dtype) for x, scale in ((q, dk**-0.5), (k, 1), (v, 1)))
    state = torch.randn(2, 2, dk, dv, device=device)
    # the same gradient for both: one that depends on the output would carry the rounding of large outputs into it
    upstream = torch.randn(2, length, 2, dv, device=device, dtype=torch.float64)
    results = []
    for backend, used in (("torch", torch.float64), ("triton", dtype)):
        leaves = [x.detach().to(used).requires_grad_() for x in (q, k, v)]
        gates = None if log_alpha is None else log_alpha.clone().requires_grad_()
        before = state.clone().requires_grad_()
        output, final = gla_chunk(*leaves, gates, before, True, backend=backend)
        ((output.double() * upstream).sum() + final.double().sum()).backward()
        grads = [x.grad for x in (*leaves, gates, before) if x is not None]
        results.append([output, final, *grads])
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for actual, expected in zip(*reversed(results), strict=True):
        assert (actual.double() - expected).norm() <= tolerance * expected.norm().clamp(min=1e-3)


@pytest.mark.gpu
def test_auto_backend_takes_the_kernels_on_a_gpu_where_they_apply():
    q, k, v = torch.randn(3, 1, 40, 2, 16, device="cuda", requires_grad=True).unbind(0)
    assert "Kernels" in gla_chunk(q, k, v, None)[0].grad_fn.name()
    assert "Kernels" not in gla_chunk(q, k, v, None, log_beta=-v.abs())[0].grad_fn.name()
    assert "Kernels" not in gla_chunk(q, k, v, None, chunk=24, sub=8)[0].grad_fn.name()
    expected, _ = gla_recurrent(q, k, v, None)
    torch.testing.assert_close(gla_chunk(q, k, v, None)[0], expected, rtol=1e-3, atol=1e-3)
