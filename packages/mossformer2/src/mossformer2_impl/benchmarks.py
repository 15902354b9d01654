"""What is timed: the attention and the convolutions against their obvious forms, the network against the authors' code
and against models of its size, seconds of sound against seconds of computing."""

import ctypes
import importlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision, fitted_slope, peak_memory
from shared_impl.results import Row

from .attention import joint_attention, joint_attention_naive
from .baselines import ConvTasNet, SepFormer
from .convolution import depthwise, depthwise_naive
from .data import talkers
from .experiments import held_out
from .metrics import pit_loss
from .mixing import MixtureDataset
from .model import MossFormer2
from .training import evaluate, train

__all__ = ["BENCHMARKS", "CHECKOUT"]

CHECKOUT = "MOSSFORMER2_OFFICIAL_DIR"
"""environment variable: a checkout of alibabasglab/MossFormer2 (needs einops and rotary_embedding_torch)"""


def _backward(call: Callable[[], Tensor]) -> Callable[[], object]:
    def both() -> None:
        call().square().mean().backward()  # type: ignore[no-untyped-call]

    return both


def _quiet(call: Callable[[], object]) -> Callable[[], object]:
    def without() -> object:
        with torch.no_grad():
            return call()

    return without


def _peak(call: Callable[[], object]) -> float:
    """MiB at the peak of a call, in a child that does not inherit what this process has free but not given back."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return peak_memory(call) / 2**20


def attention(setting: Setting) -> Generator[Case | Row, Any, None]:
    """All frames against all, and in time linear in frames."""
    sizes = (64, 128) if setting.quick else (250, 500, 1000, 2000, 4000)
    seconds = []
    for frames in sizes:
        keys: dict[str, Any] = {
            name: torch.randn(1, frames, 128, device=setting.device) for name in ("q", "q_global", "k", "k_global")
        }
        more: dict[str, Any] = {"values": torch.randn(1, frames, 1024, device=setting.device), "group": 256}
        forms: dict[str, Any] = {
            "all against all": partial(joint_attention_naive, **keys, **more),
            "linear": partial(joint_attention, **keys, **more),
        }
        found = yield Case(f"{frames} frames", forms, baseline="all against all", rounds=5, size=frames)
        seconds.append(found["linear"].median_s)
    slope = fitted_slope(sizes[-3:], seconds[-3:])
    yield Row("growth with frames", "linear", "exponent", slope, higher_is_better=False)


def convolution(setting: Setting) -> Iterator[Case]:
    """Depthwise convolutions of frames whose channels are last, with gradients."""
    for channels, taps, dilation in ((2176, 17, 1), (512, 17, 1), (256, 39, 1), (512, 39, 2)):
        frames = 50 if setting.quick else 2000
        x = torch.randn(1, frames, channels, requires_grad=True)
        kernel = torch.randn(channels, taps, requires_grad=True)

        def library(x: Tensor = x, kernel: Tensor = kernel, dilation: int = dilation) -> Tensor:
            reach = (kernel.shape[1] - 1) * dilation // 2
            y = F.conv1d(x.transpose(1, 2), kernel[:, None], padding=reach, dilation=dilation, groups=len(kernel))
            return y.transpose(1, 2)

        forms: dict[str, Callable[[], object]] = {
            "torch's conv1d": _backward(library),
            "sum of shifts": _backward(partial(depthwise_naive, x, kernel, dilation=dilation)),
            "ours": _backward(partial(depthwise, x, kernel, dilation=dilation)),
        }
        yield Case(f"{channels} channels, {taps} taps, {dilation} apart, forward and backward", forms,
                   baseline="torch's conv1d", rounds=3)  # fmt: skip


def network(setting: Setting) -> Generator[Case | Row, Any, None]:
    """Models of 0.17 million weights on one second, and the preset base: seconds of sound for one of computing."""
    sizes: dict[str, Any] = {
        "MossFormer2": MossFormer2.preset("tiny"),
        "ConvTasNet": ConvTasNet(n_filters=64, channels=64, hidden=128, blocks=3, repeats=2),
        "SepFormer": SepFormer(depth=2),
    }
    if (peer := _asteroid()) is not None:
        sizes["ConvTasNet of asteroid"] = peer
    for name, model in sizes.items():
        yield Row("weights of the models", name, "thousands", sum(p.numel() for p in model.parameters()) / 1000,
                  higher_is_better=False)  # fmt: skip
        model.eval()
    for seconds in (0.25,) if setting.quick else (1, 4, 30):
        wave = torch.randn(1, round(seconds * 8000))
        forms = {name: _quiet(partial(model, wave)) for name, model in sizes.items()}
        label = f"{seconds:g} s of sound"
        found = yield Case(label, forms, baseline="SepFormer", rounds=3, size=seconds)
        for name, timing in found.items():
            factor = timing.median_s / seconds
            yield Row(label, name, "real-time factor", factor, higher_is_better=False)
            if not setting.quick:
                yield Row(label, name, "peak MiB", _peak(forms[name]), higher_is_better=False)
    wave = torch.randn(1, 800 if setting.quick else 8000)
    forms = {name: _backward(partial(model, wave)) for name, model in sizes.items()}
    yield Case("1 s of sound, forward and backward", forms, baseline="SepFormer", rounds=3)


def _asteroid() -> Any:
    """The ConvTasNet of asteroid with our sizes, where it is installed."""
    try:
        peer = importlib.import_module("asteroid.models")
    except (ImportError, OSError):
        return None
    return peer.ConvTasNet(
        2, n_filters=64, kernel_size=16, stride=8, n_blocks=3, n_repeats=2, bn_chan=64, hid_chan=128, skip_chan=64
    )


def base(setting: Setting) -> Iterator[Row | str]:
    """The preset base (55.7 million weights), forward: processor time and memory by the length, one call each."""
    torch.manual_seed(0)
    model = MossFormer2.preset("tiny" if setting.quick else "base").eval()
    lengths = (0.1, 0.2) if setting.quick else (1.0, 4.0, 30.0)
    spent = []
    _quiet(partial(model, torch.randn(1, round(lengths[0] * 8000))))()
    for seconds in lengths:
        call = _quiet(partial(model, torch.randn(1, round(seconds * 8000))))
        begun = time.process_time()
        call()
        spent.append(time.process_time() - begun)
        label = f"{seconds:g} s of sound"
        yield Row(label, "base", "processor time for one second of it, s", spent[-1] / seconds, higher_is_better=False)
        if not setting.quick:
            yield Row(label, "base", "peak MiB", _peak(call), higher_is_better=False)
    yield Row("growth with the length", "base", "exponent", fitted_slope(lengths, spent), higher_is_better=False)
    yield "one call of each length; processor time counts all threads"


# The authors' code ---------------------------------------------------------------------------------------------------


@contextmanager
def _authors(folder: Path) -> Iterator[Any]:
    """Their package `model`; it imports torchaudio for files only, which is stood in for where it is absent."""
    before, added = set(sys.modules), str(folder / "MossFormer2_standalone")
    sys.path.insert(0, added)
    try:
        try:
            importlib.import_module("torchaudio")
        except ImportError:
            sys.modules["torchaudio"] = ModuleType("torchaudio")
        yield importlib.import_module("model.mossformer2"), importlib.import_module("model.mossformer2_configs")
    finally:
        sys.path.remove(added)
        for name in set(sys.modules) - before:
            if name == "torchaudio" or name.partition(".")[0] == "model":
                del sys.modules[name]


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """The authors' standalone code from equal weights: outputs, gradients, time and memory."""
    place = os.environ.get(CHECKOUT)
    if not place or not (Path(place) / "MossFormer2_standalone" / "model" / "mossformer2.py").is_file():
        yield Row("alibabasglab/MossFormer2", "ours", "compared", 0.0, note=f"{CHECKOUT} names no checkout")
        yield f"set {CHECKOUT} to a checkout of alibabasglab/MossFormer2"
        return
    yield f"alibabasglab/MossFormer2 at {checkout_revision(Path(place))}, unchanged; all 24 layers for outputs"
    for layers in (1,) if setting.quick else (24, 2):
        theirs, ours = _pair(Path(place), layers)
        counts = [sum(p.numel() for n, p in m.named_parameters() if "rotary" not in n) for m in (theirs, ours)]
        more = float(counts[1] - counts[0])
        yield Row(f"{layers} layers", "ours", "weights more than theirs", more, higher_is_better=False)
        yield from _parity(theirs, ours, 0.1 * torch.randn(1, 4000), layers)
        if layers == 24:
            continue
        for seconds in (0.25,) if setting.quick else (1, 4):
            part = 0.1 * torch.randn(1, round(8000 * seconds))
            forms = {"theirs": _quiet(partial(theirs, part)), "ours": _quiet(partial(ours, part))}
            label = f"{layers} layers, {seconds:g} s"
            if not setting.quick:
                for name, call in forms.items():
                    yield Row(f"{label}, forward", name, "peak MiB", _peak(call), higher_is_better=False)
            yield Case(f"{label}, forward", forms, baseline="theirs", rounds=3)
            forms = {"theirs": _backward(partial(theirs, part)), "ours": _backward(partial(ours, part))}
            yield Case(f"{label}, forward and backward", forms, baseline="theirs", rounds=3)


def _pair(folder: Path, layers: int) -> tuple[nn.Module, MossFormer2]:
    """Their network with weights moved away from their start, where attention is next to nothing, and ours."""
    from contextlib import redirect_stdout

    torch.manual_seed(0)
    with _authors(folder) as (network, configs), redirect_stdout(sys.stderr):
        settings = {**configs.mossformer2_librimix_2spk, "intra_numlayers": layers}
        theirs = network.Mossformer2Wrapper(settings).cpu().eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name.endswith("gamma"):
                p.mul_(20)
            elif "rotary" not in name:
                p.add_(0.01 * torch.randn_like(p))
    return theirs, MossFormer2(n_layers=layers).load_official(theirs.state_dict()).eval()


def _parity(theirs: Any, ours: Any, wave: Tensor, layers: int) -> Iterator[Row]:
    """In float64 first: their rotary code keeps its angles in the kind of number that it met first."""
    theirs, ours = theirs.double(), ours.double()
    if layers < 24:
        target = torch.randn(1, 2, wave.shape[1], dtype=torch.float64)
        pit_loss(theirs(wave.double()).transpose(1, 2), target)[0].backward()  # type: ignore[no-untyped-call]
        pit_loss(ours(wave.double()), target)[0].backward()  # type: ignore[no-untyped-call]
        expected, found = theirs.encoder.conv1d.weight.grad, ours.encoder.weight.grad
        far = float((found - expected).abs().max() / expected.abs().max())
        label = f"{layers} layers, float64"
        yield Row(label, "ours", "of the encoder's gradient, relative", far, higher_is_better=False)
        theirs.zero_grad(), ours.zero_grad()
    for dtype in (torch.float64, torch.float32):
        theirs, ours, x = theirs.to(dtype), ours.to(dtype), wave.to(dtype)
        with torch.no_grad():
            a, b = theirs(x).transpose(1, 2), ours(x)
        label = f"{layers} layers, {str(dtype).removeprefix('torch.')}"
        far = float((a - b).abs().max() / a.abs().max())
        yield Row(label, "ours", "largest difference of outputs, relative", far, higher_is_better=False)


def defaults(setting: Setting) -> Iterator[Row | str]:
    """`train` as it comes on few recordings, beside the mixture itself: SI-SDR improvement on recordings not seen."""
    steps = 2 if setting.quick else 300
    sets = {
        "low and high voice": ((80.0, 160.0), (180.0, 300.0)),
        "three voices": ((80.0, 120.0), (140.0, 190.0), (220.0, 300.0)),
        "voices alike": ((100.0, 180.0), (130.0, 220.0)),
    }
    for name, pitches in sets.items():
        learn, tested = talkers(12, pitches=pitches, seed=3), talkers(4, pitches=pitches, seed=4)
        items = held_out(tested, 10, seconds=1.5)
        torch.manual_seed(setting.seed)
        model = MossFormer2.preset("tiny")
        train(model, MixtureDataset(learn, seconds=1.0), items[:3], steps=steps, batch=1, lr=1e-3)
        yield Row(f"{name}, 12 recordings each", "train", "SI-SDRi dB", evaluate(model, items[3:])["si_sdri"])
        yield Row(f"{name}, 12 recordings each", "the mixture", "SI-SDRi dB", 0.0)


BENCHMARKS: Mapping[str, Benchmark] = {
    "attention": Benchmark("Joint attention", attention, xlabel="frames"),
    "convolution": Benchmark("Depthwise convolutions of frames", convolution),
    "network": Benchmark("Models of one size", network, xlabel="seconds of sound"),
    "base": Benchmark("The paper's size", base),
    "official": Benchmark("Beside the authors' code", official),
    "defaults": Benchmark("As it comes", defaults),
}
