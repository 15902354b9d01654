"""What is timed against what: the scan against the quadratic form, streams of tokens, the verbs as they come."""

import os
import sys
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision, fitted_slope, module_from_file
from shared_impl.cli import UserError
from shared_impl.results import Row

from .classifier import Classifier
from .data import chirps, load_uea
from .hawkes import Hawkes
from .layer import Aaren
from .saved import train_task
from .scan import attention_scan, masked_softmax_attention
from .stream import Stream
from .twins import build_backbone, state_bytes

__all__ = ["BENCHMARKS"]

HEADS, D_HEAD = 4, 32
Cases = Generator[Case | Row | str, Any, None]


def both_ways(form: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Callable[[], object]:
    """Forward and backward of a form."""
    return lambda: torch.autograd.grad(form(*inputs).sum(), inputs)


def scan(setting: Setting) -> Cases:
    """Forward and backward of one sequence with four heads of 32; the quadratic form and the loop while they last."""
    sizes = (32, 64) if setting.quick else (128, 512, 1024, 2048, 4096, 8192, 16_384)
    seconds = []

    def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def by(method: Any) -> Callable[..., torch.Tensor]:
        return lambda s, v: attention_scan(s, v, method=method)

    for n in sizes:
        s = torch.randn(1, HEADS, n, device=setting.device, requires_grad=True)
        q, k, v = (torch.randn(1, HEADS, n, D_HEAD, device=setting.device, requires_grad=True) for _ in range(3))
        forms = {"chunked scan": both_ways(attention_scan, s, v), "SDPA causal": both_ways(sdpa, q, k, v)}
        if n <= 4096:
            forms["quadratic softmax"] = both_ways(masked_softmax_attention, s, v)
            forms["loop over the cell"] = both_ways(by("sequential"), s, v)
            forms |= {m: both_ways(by(m), s, v) for m in ("hillis", "blelloch")}
        found = yield Case(
            f"{n:,} tokens", forms, baseline="quadratic softmax" if n <= 4096 else "SDPA causal",
            rounds=3 if n >= 2048 else 5, size=n, memory=n in (4096, 16_384),
        )  # fmt: skip
        seconds.append(found["chunked scan"].median_s)
    # Below 1,024 the cost of calls, not of tokens, is seen
    tail = [(n, t) for n, t in zip(sizes, seconds, strict=True) if setting.quick or n >= 1024]
    slope = fitted_slope(*zip(*tail, strict=True))
    yield Row("growth", "chunked scan", "exponent of length", slope, higher_is_better=False)
    yield "forward and backward, batch 1, 4 heads of 32, float32; above 4,096 tokens the ratio is to SDPA causal"


def stream(setting: Setting) -> Cases:
    """Tokens one at a time through two layers of 64: time of all tokens, and the state at the end."""
    sizes = (8, 16) if setting.quick else (512, 1024, 2048, 4096)
    settings = {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_ff": 256}
    names = {"aaren": "Aaren.step", "transformer": "Transformer, KV cache", "gru": "nn.GRU"}
    models = {label: build_backbone(name, **settings).eval().to(setting.device) for name, label in names.items()}
    aaren = models["Aaren.step"]
    assert isinstance(aaren, Aaren)
    seconds: dict[str, list[float]] = {label: [] for label in ("Stream", *models)}

    def read(model: Any, x: torch.Tensor) -> Any:
        with torch.inference_mode():
            if model is Stream:
                folded = Stream(aaren)
                for token in x:
                    folded(token)
                return folded.state
            state = None
            for token in x:
                _, state = model.step(token, state)
        return state

    for n in sizes:
        x = torch.randn(n, 1, settings["d_model"], device=setting.device)
        forms = {label: (lambda m=m, x=x: read(m, x)) for label, m in {"Stream": Stream, **models}.items()}
        found = yield Case(f"{n:,} tokens", forms, baseline="nn.GRU", rounds=3, size=n)
        for label, timing in found.items():
            seconds[label].append(timing.median_s)
        for label, m in {"Stream": Stream, **models}.items():
            kept = state_bytes(read(m, x)) / 1024
            yield Row(f"{n:,} tokens", label, "state KiB", kept, higher_is_better=False)
        yield Row(f"{n:,} tokens", "Stream", "time over nn.GRU's", 1 / found["Stream"].ratio, higher_is_better=False)
    for label, times in seconds.items():
        yield Row("growth", label, "exponent of length", fitted_slope(sizes, times), higher_is_better=False)
    yield "two layers of 64 with 4 heads, feed-forward 256, batch 1, float32; GRU has no feed-forward"


def defaults(setting: Setting) -> Cases:
    """The classifier and the verbs as they come on small sets: beside the answer that needs no learning."""
    sets: dict[str, Any] = {}
    for n in (36, 200):
        sets[f"{n} sweeps of 128"] = (chirps(n, seed=setting.seed), chirps(300, seed=99))
    x, y = chirps(80, length=90, seed=setting.seed)
    sets["60 sweeps of 40 to 90"] = tuple(
        ([x[i][: 40 + i % 50] for i in part], y[part]) for part in np.split(np.arange(80), [60])
    )
    for name in ("GunPoint", "ItalyPowerDemand", "ArrowHead", "BasicMotions", "JapaneseVowels"):
        try:
            sets[name] = load_uea(name)
        except ValueError:
            yield f"{name} is not here"
    for label, ((x, y), (new_x, new_y)) in list(sets.items())[: 1 if setting.quick else None]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = Classifier(steps=3 if setting.quick else None).fit(x, y)
        usual = model.classes_[np.unique(y, return_counts=True)[1].argmax()]
        warned = "warned" if any("no better" in str(w.message) for w in said) else ""
        right = float((model.predict(new_x) == new_y).mean())
        yield Row(label, "as it comes", "accuracy %", 100 * right, note=warned)
        yield Row(label, "needs no learning", "accuracy %", 100 * float((new_y == usual).mean()))
    quiet = Console(file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    with TemporaryDirectory() as folder, quiet.file:
        events, months = Path(folder) / "events.csv", Path(folder) / "months.csv"
        drawn = Hawkes().sample(36, seed=setting.seed, min_events=20, max_events=60)
        lines = [f"{i},{t},{k}" for i, s in enumerate(drawn) for t, k in zip(*s, strict=True)]
        events.write_text("\n".join(["id,time,mark", *lines]))
        t, noise = np.arange(72), np.random.default_rng(setting.seed).standard_normal(72)
        values = 100 + t + 20 * np.sin(2 * np.pi * t / 12) + 3 * noise
        months.write_text("\n".join(["sales", *map(str, values)]))
        for label, task, file, ours, trivial in (
            ("36 event sequences", "event", events, "nll", "poisson_nll"),
            ("72 months", "forecast", months, "mse", "last_value_mse"),
        ):
            steps = 3 if setting.quick else None
            found = train_task(
                task, "aaren", data=file, steps=steps, seed=setting.seed, out_dir=Path(folder), console=quiet
            )
            warned = "" if found["better_than_trivial"] else "warned"
            yield Row(label, "as it comes", ours.upper(), found[ours], higher_is_better=False, note=warned)
            yield Row(label, "needs no learning", ours.upper(), found[trivial], higher_is_better=False)


def peer(setting: Setting) -> Cases:
    """A public re-implementation in torch beside ours, same weights: outputs, gradients, time."""
    place = Path(os.environ.get("AAREN_PEER_DIR", ""))
    if not (place / "attention_as_rnn.py").is_file():
        raise UserError("bench peer needs AAREN_PEER_DIR: a checkout of andreofner/attention-as-rnn-pytorch")
    sys.path.insert(0, str(place))
    try:
        theirs = module_from_file(place / "attention_as_rnn.py", "peer_attention")
    except ImportError as error:
        raise UserError(f"bench peer needs what the checkout imports: {error}") from error
    finally:
        sys.path.remove(str(place))
    for n in (64,) if setting.quick else (64, 1024, 4096):
        model = theirs.attention_as_rnn(heads=4, dim=16, dim_inner=32, dim_out=16).to(setting.device)
        x = torch.randn(2, n, 16, device=setting.device)
        weights = tuple(model.parameters())

        def ours(model: Any = model, x: torch.Tensor = x) -> torch.Tensor:
            k, v = torch.einsum("bti,ihok->kbhto", x, model.kv_kernel)
            s = torch.einsum("hd,bhtd->bht", model.q_kernel, k)
            return torch.as_tensor(model.to_out(attention_scan(s, v).mean(1)))

        both = [(y, torch.autograd.grad(y.square().sum(), weights)) for y in (model(x), ours())]
        (a, grads_a), (b, grads_b) = both
        yield Row(f"{n:,} tokens", "difference", "outputs", float((a - b).detach().abs().max()), higher_is_better=False)
        apart = max(float((p - q).norm() / p.norm()) for p, q in zip(grads_a, grads_b, strict=True))
        yield Row(f"{n:,} tokens", "difference", "gradients, relative", apart, higher_is_better=False)
        forms = {
            name: (lambda f=f, w=weights: torch.autograd.grad(f().sum(), w))
            for name, f in {"peer": lambda m=model, x=x: m(x), "ours": ours}.items()
        }
        yield Case(f"{n:,} tokens", forms, baseline="peer", rounds=3)
    yield f"andreofner/attention-as-rnn-pytorch@{checkout_revision(place)}: scores unscaled, heads averaged; ours too"


BENCHMARKS: Mapping[str, Benchmark] = {
    "scan": Benchmark("Prefixes of attention, forward and backward", scan, xlabel="tokens"),
    "stream": Benchmark("A stream, token by token", stream, xlabel="tokens"),
    "defaults": Benchmark("As they come, on small sets", defaults),
    "peer": Benchmark("Beside a public re-implementation", peer),
}
