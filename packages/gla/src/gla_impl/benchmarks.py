"""Speed and memory of the forms, as ratios measured in turn in one process."""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_impl.bench import Timing, compare, peak_memory
from shared_impl.cli import UserError
from shared_impl.results import Record, Row

from .chunk import gla_chunk
from .config import GLAConfig, Mixer
from .gates import vector_gate
from .model import GLAForCausalLM, state_bytes
from .parallel import gla_parallel
from .recurrent import gla_recurrent

__all__ = ["bench_decode", "bench_fla", "bench_ops", "run"]

Operands = tuple[Tensor, Tensor, Tensor, Tensor]

# A layer of d_model = 512 with 4 heads, as the paper sizes them; then one of 256 and one of 1024.
HEADS = 4
HEAD_SIZES = ((64, 128), (32, 64), (128, 256))


def run(what: str, *, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """Run a benchmark by name: ops, decode or fla. Raises UserError if its peer is not installed."""
    benchmarks = {"ops": bench_ops, "decode": bench_decode, "fla": bench_fla}
    if what not in benchmarks:
        raise UserError(f"bench must be one of {', '.join(benchmarks)}, got {what!r}")
    return benchmarks[what](device=device, quick=quick, seed=seed)


def bench_ops(*, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """The chunked form against the recurrent loop, the parallel form and, on a GPU, flash attention."""
    lengths = (256, 512) if quick else (256, 512, 1024, 2048, 4096)
    rounds = 3 if quick else 5
    record = _start("ops", device, quick, seed, batch=1, heads=HEADS)
    # First, because memory that timing has used and freed would hide what a form needs.
    _memory_rows(record, device, seed, (512, 1024) if quick else (2048, 4096, 8192, 16384))
    for dk, dv in HEAD_SIZES[: 1 if quick else None]:
        for length in lengths if (dk, dv) == HEAD_SIZES[0] else (2048,):
            operands = _operands(length, dk, dv, device=device, seed=seed)
            task = f"dk={dk}, dv={dv}, length {length}"
            for gradient in (False, True):
                forms: dict[str, Callable[..., Any]] = {
                    "recurrent": gla_recurrent,
                    "chunk": gla_chunk,
                    "sequential": _sequential,
                }
                if dk == HEAD_SIZES[0][0] and length <= 1024 and not gradient:
                    forms["parallel"] = gla_parallel
                if length > 2048 and gradient:
                    continue  # the loop's graph would hold over ten gigabytes of states
                calls = {name: _call(form, operands, gradient) for name, form in forms.items()}
                # the loop's backward pass takes seconds, so that three rounds must do
                timings = compare(calls, baseline="recurrent", rounds=3 if gradient else rounds, min_time=0.1)
                _add_ratios(record, task, timings, "the recurrent loop", gradient)
    dk, dv = HEAD_SIZES[0]
    strong = _operands(512 if quick else 2048, dk, dv, device=device, seed=seed, strength=100.0)
    mild = _operands(512 if quick else 2048, dk, dv, device=device, seed=seed)
    scalar = (*mild[:3], mild[3][..., :1].contiguous())
    gates = {"mild gates": mild, "strong gates": strong, "scalar gates": scalar}
    for gradient in (False, True):
        calls = {name: _call(gla_chunk, x, gradient) for name, x in gates.items()}
        timings = compare(calls, baseline="mild gates", rounds=rounds, min_time=0.2)
        _add_ratios(record, f"length {mild[0].shape[1]}", timings, "mild gates", gradient)
    if device.type == "cuda":
        _attention_rows(record, device, seed, (2048,) if quick else (2048, 4096, 8192, 16384))
    return record


def bench_decode(*, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """Time and memory of a token after up to 16k others, beside a Transformer of the same size."""
    lengths = (64, 256) if quick else (256, 1024, 4096, 16384)
    record = _start("decode", device, quick, seed)
    generator = torch.Generator().manual_seed(seed)
    mixers: dict[str, Mixer] = {"GLA": "gla", "Transformer++": "attention"}
    for name, mixer in mixers.items():
        torch.manual_seed(seed)
        model = GLAForCausalLM(GLAConfig(vocab_size=256, d_model=256, n_layers=2, mixer=mixer))
        model = model.to(device).eval()
        steps = {}
        for length in lengths:
            tokens = torch.randint(256, (1, length), generator=generator).to(device)
            with torch.no_grad():
                _, state = model.backbone(tokens)
            record.add(
                Row(f"after {length} tokens", name, "state KiB", state_bytes(state) / 1024, higher_is_better=False)
            )
            steps[f"after {length} tokens"] = partial(_step, model, tokens[:, -1], state)
        baseline = next(iter(steps))
        timings = compare(steps, baseline=baseline, rounds=5 if quick else 25)
        for task, timing in timings.items():
            record.add(Row(task, name, "ms a token", 1e3 * timing.median_s, higher_is_better=False))
            if task != baseline:
                note = f"quartiles over rounds {timing.ratio_low:.2f} to {timing.ratio_high:.2f}"
                record.add(Row(task, name, f"times as fast as {baseline}", timing.ratio, note=note))
    record.notes.append("2 layers of d_model 256, batch 1")
    return record


def bench_fla(*, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """Against flash-linear-attention: its naive form on a CPU, its Triton kernels on a GPU."""
    if importlib.util.find_spec("fla") is None:
        raise UserError("flash-linear-attention is not installed: pip install flash-linear-attention")
    record = _start("fla", device, quick, seed, batch=1, heads=HEADS)
    lengths = (256,) if quick else (512, 2048)
    rounds = 3 if quick else 5
    dk, dv = HEAD_SIZES[0]
    peers: dict[str, Callable[..., Any]]
    if device.type == "cuda":
        ops = importlib.import_module("fla.ops.gla")
        peers = {"fla chunk": ops.chunk_gla, "fla fused recurrent": ops.fused_recurrent_gla}
    else:
        ops = importlib.import_module("fla.ops.gla.naive")
        peers = {"fla naive": ops.naive_recurrent_gla}
    baseline = next(iter(peers))
    for length in lengths:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        operands = _operands(length, dk, dv, device=device, seed=seed, dtype=dtype)
        scaled = (operands[0] * dk**-0.5, *operands[1:])  # the peer scales q, ours does not
        for gradient in (False, True):
            calls = {name: _call(form, operands, gradient) for name, form in peers.items()}
            calls |= {"chunk": _call(gla_chunk, scaled, gradient)}
            if device.type == "cpu":
                calls |= {"recurrent": _call(gla_recurrent, scaled, gradient)}
            timings = compare(calls, baseline=baseline, rounds=rounds, min_time=0.2)
            _add_ratios(record, f"length {length}", timings, baseline, gradient)
        theirs, ours = peers[baseline](*operands)[0], gla_chunk(*scaled)[0]
        error = ((ours - theirs).float().norm() / theirs.float().norm()).item()
        record.add(Row(f"length {length}", "chunk", "relative difference", error, higher_is_better=False))
    from importlib.metadata import version

    record.notes.append(f"flash-linear-attention {version('flash-linear-attention')}")
    return record


def _start(name: str, device: torch.device, quick: bool, seed: int, **config: object) -> Record:
    preset = "quick" if quick else device.type
    return Record.start("gla-impl", name, preset=preset, seeds=[seed], kind="bench", config=config)


def _operands(
    length: int,
    dk: int,
    dv: int,
    *,
    device: torch.device,
    seed: int,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
) -> Operands:
    """Random operands with the gates of a layer before training, their logarithms times `strength`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(dim: int) -> Tensor:
        return torch.randn(batch, length, HEADS, dim, generator=generator).to(device)

    log_alpha = strength * vector_gate(draw(dk))
    return draw(dk).to(dtype), draw(dk).to(dtype), draw(dv).to(dtype), log_alpha


def _call(form: Callable[..., Any], operands: Operands, gradient: bool) -> Callable[[], object]:
    def forward() -> object:
        with torch.no_grad():
            return form(*operands)[0]

    def forward_and_backward() -> object:
        leaves = [x.detach().requires_grad_() for x in operands]
        form(*leaves)[0].sum().backward()
        return leaves[0].grad

    return forward_and_backward if gradient else forward


def _sequential(q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor) -> tuple[Tensor, Tensor | None]:
    return gla_chunk(q, k, v, log_alpha, schedule="sequential")


def _add_ratios(record: Record, task: str, timings: dict[str, Timing], baseline: str, gradient: bool) -> None:
    what = "forward and backward" if gradient else "forward"
    for name, timing in timings.items():
        record.add(Row(task, name, f"{what}, ms", 1e3 * timing.median_s, higher_is_better=False))
        if timing.ratio != 1.0:
            note = f"quartiles over rounds {timing.ratio_low:.2f} to {timing.ratio_high:.2f}"
            record.add(Row(task, name, f"{what}, times as fast as {baseline}", timing.ratio, note=note))


def _memory_rows(record: Record, device: torch.device, seed: int, lengths: tuple[int, ...]) -> None:
    dk, dv = HEAD_SIZES[0]
    forms: dict[str, Callable[..., Any]] = {"chunk": gla_chunk, "sequential": _sequential}
    _call(gla_chunk, _operands(64, dk, dv, device=device, seed=seed), True)()  # loads what is loaded once
    for length in lengths:
        operands = _operands(length, dk, dv, device=device, seed=seed)
        for name, form in forms.items():
            peak = peak_memory(_call(form, operands, True), device=device) / 2**20
            task = f"length {length}"
            record.add(Row(task, name, "forward and backward, peak MiB", peak, higher_is_better=False))
    operands = _operands(lengths[0], dk, dv, device=device, seed=seed)
    peak = peak_memory(_call(gla_recurrent, operands, True), device=device) / 2**20
    record.add(Row(f"length {lengths[0]}", "recurrent", "forward and backward, peak MiB", peak, higher_is_better=False))


def _attention_rows(record: Record, device: torch.device, seed: int, lengths: tuple[int, ...]) -> None:
    """Against causal flash attention of the same width, in bfloat16: 8 heads of 64 as a Transformer has them."""
    dk, dv = HEAD_SIZES[0]
    for length in lengths:
        operands = _operands(length, dk, dv, device=device, seed=seed, dtype=torch.bfloat16, batch=8)
        shape = (8, HEADS * dv // 64, length, 64)
        q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(3))
        for gradient in (False, True):
            calls = {
                "flash attention": _attention_call(q, k, v, gradient),
                "chunk": _call(gla_chunk, operands, gradient),
            }
            timings = compare(calls, baseline="flash attention", min_time=0.2)
            _add_ratios(record, f"batch 8, length {length}", timings, "flash attention", gradient)


def _attention_call(q: Tensor, k: Tensor, v: Tensor, gradient: bool) -> Callable[[], object]:
    def call() -> object:
        query, key, value = (x.detach().requires_grad_(gradient) for x in (q, k, v))
        with torch.set_grad_enabled(gradient):
            output = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        if gradient:
            output.sum().backward()
        return output

    return call


def _step(model: GLAForCausalLM, token: Tensor, state: Any) -> Tensor:
    with torch.no_grad():
        return model.step(token, state)[0]
