"""Benchmarks: forms of the kernel, the layer against LSTM and attention, steps against a cache, and the authors' code.

All times are of forms run in turns in one process, and what counts is their ratio.
"""

import copy
import importlib.util
import logging
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from s4_impl.kernel import S4Kernel
from s4_impl.layer import S4Layer
from s4_impl.official import from_official
from s4_impl.recurrence import unroll
from shared_impl.bench import Timing, checkout_revision, compare, module_from_file, peak_memory
from shared_impl.cli import UserError
from shared_impl.results import Record, Row

__all__ = ["bench_kernel", "bench_layer", "bench_official", "bench_step", "run"]

What = Literal["kernel", "layer", "step", "official"]
_HEADS, _STATE, _BATCH = 64, 64, 4


def run(what: What, *, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """One of the benchmarks by name; `quick` leaves the long sequences out."""
    torch.manual_seed(seed)
    if what == "official":
        folder = os.environ.get("S4_OFFICIAL_DIR")
        if not folder:
            raise UserError("bench official needs S4_OFFICIAL_DIR: the folder of a checkout of state-spaces/s4")
        return bench_official(Path(folder), device=device, quick=quick, seed=seed)
    benches = {"kernel": bench_kernel, "layer": bench_layer, "step": bench_step}
    return benches[what](device=device, quick=quick, seed=seed)


def bench_kernel(*, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """The forms of the DPLR kernel at H = N = 64, forward and backward; and their memory as N grows."""
    record = _start("kernel", seed, quick, {"d_model": _HEADS, "d_state": _STATE})
    backends = ["naive", "blockwise", "fft", *(["triton"] if device.type == "cuda" else [])]
    for L in (1024,) if quick else (1024, 4096, 16384):
        # The written-out form needs 8 H N L numbers several times over.
        kernels = {b: S4Kernel(_HEADS, d_state=_STATE, l_max=L, backend=b).to(device) for b in backends}  # type: ignore[arg-type]
        rounds = 3 if L > 4096 else 5
        forward = {b: _without_gradients(lambda k=k, L=L: k(L)[0]) for b, k in kernels.items()}
        both = {b: _with_gradients(lambda k=k, L=L: k(L)[0], k) for b, k in kernels.items()}
        _add_ratios(record, f"kernel, L={L}", "forward", compare(forward, baseline="naive", rounds=rounds), "naive")
        _add_ratios(
            record, f"kernel, L={L}", "forward + backward", compare(both, baseline="naive", rounds=rounds), "naive"
        )
    L = 1024 if quick else 4096
    for N in (16, 64, 256):
        for backend in backends:
            kernel = S4Kernel(16, d_state=N, l_max=L, backend=backend).to(device)  # type: ignore[arg-type]
            step = _with_gradients(lambda k=kernel, L=L: k(L)[0], kernel)
            record.add(
                Row(
                    task=f"kernel, H=16, L={L}, N={N}",
                    model=backend,
                    metric="peak memory, forward + backward, MiB",
                    value=round(peak_memory(step, device=device) / 2**20, 1),
                    higher_is_better=False,
                )
            )
    record.notes.append("All forms compute in double precision; fft is the default on the CPU.")
    return record


def bench_layer(*, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """Forward and backward of one layer with 64 features, batch 4: S4, S4D, LSTM, attention."""
    record = _start("layer", seed, quick, {"d_model": _HEADS, "d_state": _STATE, "batch": _BATCH})
    for L in (1024,) if quick else (1024, 2048, 4096, 8192):
        u = torch.randn(_BATCH, L, _HEADS, device=device)
        attention = nn.MultiheadAttention(_HEADS, 4, batch_first=True).to(device)
        layers: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {}
        for name, mode in (("S4", "dplr"), ("S4D", "diag")):
            layer = S4Layer(_HEADS, d_state=_STATE, l_max=L, mode=mode).to(device)
            layers[name] = layer, lambda layer=layer, u=u: layer(u)[0]  # type: ignore[misc]
        lstm = nn.LSTM(_HEADS, _HEADS, batch_first=True).to(device)
        layers["LSTM"] = lstm, lambda lstm=lstm, u=u: lstm(u)[0]  # type: ignore[misc]
        layers["attention"] = (
            attention,
            lambda a=attention, u=u: a(u, u, u, need_weights=False)[0],  # type: ignore[misc]
        )
        forms = {name: _with_gradients(form, module) for name, (module, form) in layers.items()}
        _add_ratios(record, f"layer, L={L}", "forward + backward", compare(forms, baseline="LSTM", rounds=5), "LSTM")
    return record


def bench_step(*, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """One generated token after 1k to 8k others: S4 (each step mode) against a Transformer with a key-value cache."""
    from s4_impl.baselines import TransformerModel
    from s4_impl.model import S4Model

    vocabulary, width, depth = 64, 128, 4
    record = _start("step", seed, quick, {"d_model": width, "n_layers": depth, "d_state": _STATE, "batch": 1})
    s4 = S4Model(vocabulary, vocabulary, depth, d_model=width, d_state=_STATE, task="lm").to(device).eval()
    transformer = TransformerModel(vocabulary, vocabulary, depth, d_model=width, task="lm").to(device).eval()
    modes = {"S4 (linear)": "linear", "S4 (dense)": "dense"}
    models: dict[str, Any] = {name: copy.deepcopy(s4).setup_step(mode) for name, mode in modes.items()}
    models["Transformer"] = transformer
    token = torch.zeros(1, dtype=torch.long, device=device)
    for length in (1024,) if quick else (1024, 2048, 4096, 8192):
        prompt = torch.randint(vocabulary, (1, length), device=device)
        forms: dict[str, Callable[[], object]] = {}
        for name, model in models.items():
            with torch.no_grad():
                _, state = model.forward_chunk(prompt, model.default_state(1))
                # A first step makes room in the cache; later ones, from the same state, need no copy.
                _, state = model.step(token, state)
            forms[name] = _without_gradients(lambda model=model, state=state: model.step(token, state))
        timings = compare(forms, baseline="Transformer", rounds=7)
        _add_ratios(record, f"one token after {length}", "step", timings, "Transformer")
        for name, timing in timings.items():
            record.add(
                Row(
                    task=f"one token after {length}",
                    model=name,
                    metric="ms a token",
                    value=round(1e3 * timing.median_s, 3),
                    higher_is_better=False,
                )
            )
    return record


def bench_official(peer: Path, *, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """Beside the authors' code, imported from a checkout of it: differences with equal weights, and ratios of speed.

    Their fast paths (a CUDA extension, pykeops) are used where they are installed; else it is their torch fallback.

    Raises:
        UserError: if `peer` is not such a checkout, or lacks a library that it imports.
    """
    official = _import_official(peer)
    revision = checkout_revision(peer)
    config = {"peer": f"state-spaces/s4@{revision}", "d_model": _HEADS, "d_state": _STATE, "batch": _BATCH}
    record = _start("official", seed, quick, config)
    for name, theirs, ours in _pairs_for_parity(official):
        _add_parity(record, name, theirs, ours)
    backend = "cuda" if device.type == "cuda" else "naive"
    for L in (1024,) if quick else (1024, 4096, 16384):
        rounds = 3 if L > 1024 else 5
        theirs = official.FFTConv(
            _HEADS,
            l_max=L,
            mode="dplr",
            d_state=_STATE,
            activation=None,
            transposed=False,
            backend=backend,
            verbose=False,
        ).to(device)
        ours = S4Layer(_HEADS, d_state=_STATE, l_max=L).to(device)
        u = torch.randn(_BATCH, L, _HEADS, device=device)
        kernels = {
            "official": lambda m=theirs, L=L: m.kernel(L=L)[0],
            "s4-impl": lambda m=ours, L=L: m.kernel(L)[0],
        }
        layers = {"official": lambda m=theirs, u=u: m(u)[0], "s4-impl": lambda m=ours, u=u: m(u)[0]}
        modules: dict[str, nn.Module] = {"official": theirs, "s4-impl": ours}
        for part, forms in (("kernel", kernels), ("layer", layers)):
            plain = {name: _without_gradients(form) for name, form in forms.items()}
            both = {name: _with_gradients(form, modules[name]) for name, form in forms.items()}
            for metric, timed in (("forward", plain), ("forward + backward", both)):
                timings = compare(timed, baseline="official", rounds=rounds)
                _add_ratios(record, f"{part}, L={L}", metric, timings, "official")
    record.notes.append(
        "difference: from the official code with the same weights, N=64, L=1024, in float32; error: from the kernel "
        "written out as matrix powers in float64; both the largest over the largest value."
    )
    record.notes.append(f"official: state-spaces/s4@{revision}, models/s4/s4.py, backend {backend!r}, in float32.")
    return record


# --------------------------------------------------------------------------------------------------- the authors' code


def _import_official(peer: Path) -> Any:
    file = peer / "models" / "s4" / "s4.py"
    if not file.is_file():
        raise UserError(f"{peer} is not a checkout of state-spaces/s4: it has no models/s4/s4.py")
    if importlib.util.find_spec("pytorch_lightning") is None:
        # Used there for one decorator of the logger only.
        stand_in: Any = types.ModuleType("pytorch_lightning.utilities")
        stand_in.rank_zero_only = lambda function: function
        sys.modules["pytorch_lightning"] = types.ModuleType("pytorch_lightning")
        sys.modules["pytorch_lightning.utilities"] = stand_in
    logging.disable(logging.WARNING)
    try:
        return module_from_file(file, "official_s4")
    except ImportError as error:
        raise UserError(f"the official code needs a library that is not installed: {error}") from error
    finally:
        logging.disable(logging.NOTSET)


def _pairs_for_parity(official: Any) -> list[tuple[str, Any, S4Layer]]:
    """Official layers and ours with their weights: N = 64, L = 1024, 8 features, all kinds of kernel."""
    L, H = 1024, 8
    pairs = []
    for name, theirs, ours in (
        ("S4-LegS", {"mode": "dplr", "init": "legs"}, {"mode": "dplr", "init": "legs"}),
        ("S4-LegS, rank 2", {"mode": "dplr", "init": "legs", "rank": 2}, {"mode": "dplr", "init": "legs", "rank": 2}),
        ("S4-LegT, rank 2", {"mode": "dplr", "init": "legt", "rank": 2}, {"mode": "dplr", "init": "legt"}),
        ("S4-FouT", {"mode": "dplr", "init": "fourier"}, {"mode": "dplr", "init": "fourier"}),
        ("S4D-LegS, zoh", {"mode": "diag", "init": "diag-legs"}, {"mode": "diag", "init": "legs"}),
        ("S4D-Lin, zoh", {"mode": "diag", "init": "diag-lin"}, {"mode": "diag", "init": "lin"}),
        (
            "S4D-Inv, bilinear",
            {"mode": "diag", "init": "diag-inv", "disc": "bilinear"},
            {"mode": "diag", "init": "inv", "discretisation": "bilinear"},
        ),
        (
            "S4-LegS, bidirectional, n_ssm=2",
            {"mode": "dplr", "init": "legs", "bidirectional": True, "n_ssm": 2},
            {"mode": "dplr", "init": "legs", "bidirectional": True, "n_ssm": 2, "reverse_lag": 1},
        ),
    ):
        their_layer = official.FFTConv(
            H, l_max=L, d_state=64, activation=None, transposed=False, backend="naive", verbose=False, **theirs
        ).eval()
        with torch.no_grad():
            their_layer.kernel(L=L)
        our_layer = S4Layer(H, d_state=64, l_max=L, **ours)  # type: ignore[arg-type]
        our_layer.load_state_dict(from_official(their_layer.state_dict()))
        pairs.append((name, their_layer, our_layer))
    return pairs


@torch.no_grad()
def _add_parity(record: Record, name: str, theirs: Any, ours: S4Layer) -> None:
    """Differences from the authors' layer with the same weights, and how far either kernel is from the definition."""
    L = 1024
    u = torch.randn(2, L, ours.d_model)
    K, their_K = ours.kernel(L)[0], theirs.kernel(L=L)[0]
    found = {"kernel": _relative(K, their_K), "output": _relative(ours(u)[0], theirs(u)[0])}
    if not ours.bidirectional:
        theirs.setup_step()
        ours.setup_step("linear")
        state, our_state = theirs.default_state(2), ours.default_state(2)
        outputs, our_outputs = [], []
        for t in range(64):
            y, state = theirs.step(u[:, t], state)
            our_y, our_state = ours.step(u[:, t], our_state)
            outputs.append(y)
            our_outputs.append(our_y)
        found["64 steps"] = _relative(torch.stack(our_outputs), torch.stack(outputs))
    for what, value in found.items():
        record.add(
            Row(f"same weights: {name}", "s4-impl", f"{what}: difference", _rounded(value), higher_is_better=False)
        )
    exact = unroll(*ours.kernel.dense(), L)
    record.add(
        Row(
            task=f"same weights: {name}",
            model="s4-impl",
            metric="kernel: error",
            value=_rounded(_relative(K.double(), exact)),
            official=_rounded(_relative(their_K.double(), exact)),
            higher_is_better=False,
        )
    )


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())


def _rounded(value: float) -> float:
    return float(f"{value:.1e}")


# ------------------------------------------------------------------------------------------------------------- timing


def _start(experiment: str, seed: int, quick: bool, config: Mapping[str, Any]) -> Record:
    preset = "quick" if quick else "full"
    return Record.start("s4_impl", experiment, preset=preset, seeds=[seed], kind="bench", config=config)


def _without_gradients(form: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            form()

    return call


def _with_gradients(form: Callable[[], Tensor], module: nn.Module) -> Callable[[], None]:
    def call() -> None:
        module.zero_grad(set_to_none=True)
        form().square().sum().backward()

    return call


def _add_ratios(record: Record, task: str, metric: str, timings: Mapping[str, Timing], baseline: str) -> None:
    for name, timing in timings.items():
        if name == baseline:
            continue
        base = timings[baseline]
        record.add(
            Row(
                task=task,
                model=name,
                metric=f"{metric}, times as fast as {baseline}",
                value=round(timing.ratio, 2),
                note=f"{1e3 * timing.median_s:.3g} ms against {1e3 * base.median_s:.3g} ms; "
                f"quartiles {timing.ratio_low:.2f} to {timing.ratio_high:.2f}",
            )
        )
