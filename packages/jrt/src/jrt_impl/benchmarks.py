"""What is timed against what, declared."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision, fitted_slope
from shared_impl.cli import UserError
from shared_impl.results import Row

from .attention import Form, linear_attention, prefix_linear_attention
from .beside import CHECKOUT, Official, checkout
from .config import hybrid_layers
from .documents import FIELDS, TASKS, prompt
from .feature_map import TaylorExp
from .layers import PrefixLinearAttention
from .model import JRTForCausalLM, state_bytes

__all__ = ["BENCHMARKS"]


def _draw(setting: Setting, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(setting.seed + seed)
    return torch.randn(*shape, generator=generator).to(setting.device)


def prefix(setting: Setting) -> Iterator[Case | Row | str]:
    """Prefix attention forward and backward: chunked against quadratic, and against the causal (Based) form."""
    sizes: list[float] = []
    seconds: list[float] = []
    for length in (32,) if setting.quick else (256, 512, 1024, 2048, 4096, 8192):
        heads = 1
        q, k, ke = (_draw(setting, 1, heads, length, 16, seed=s).requires_grad_() for s in range(3))
        v, ve = (_draw(setting, 1, heads, length, 32, seed=s).requires_grad_() for s in (3, 4))
        inputs = (q, k, v, ke, ve)

        def pla(form: Form, symmetric: bool, inputs: tuple[Tensor, ...] = inputs) -> None:
            half = inputs[0].shape[2] // 2
            y, _ = prefix_linear_attention(*inputs, half, form=form, symmetric=symmetric)  # type: ignore[arg-type]
            torch.autograd.grad(y.sum(), inputs)

        def based(inputs: tuple[Tensor, ...] = inputs) -> None:
            torch.autograd.grad(linear_attention(*inputs[:3], symmetric=True)[0].sum(), inputs[:3])

        forms: dict[str, Callable[[], object]] = {
            "quadratic": partial(pla, "quadratic", False),
            "chunked": partial(pla, "chunked", False),
            "chunked, merged": partial(pla, "chunked", True),
            "causal, merged": based,
        }
        found = yield Case(
            f"{length:,} tokens", forms, baseline="quadratic", size=length, rounds=3, memory=not setting.quick
        )
        if found is not None:
            sizes.append(length)
            seconds.append(found["chunked, merged"].median_s)
            extra = found["chunked, merged"].median_s / found["causal, merged"].median_s
            yield Row(f"{length:,} tokens", "chunked, merged", "time of the causal form", extra, higher_is_better=False)
    if len(sizes) > 2:
        yield Row(
            f"{sizes[2]:,.0f} to {sizes[-1]:,.0f} tokens", "chunked, merged", "exponent of growth",
            fitted_slope(sizes[2:], seconds[2:]), higher_is_better=False,
        )  # fmt: skip
    yield "one head, keys of 16, values of 32, prefix of half the length; merged: 153 features for 273"


def prefill(setting: Setting) -> Iterator[Case | Row | str]:
    """Reading a prompt, and one token after it: the paper's blocks with and without a prefix, and a Transformer."""
    width = {"vocab_size": 256, "d_model": 16 if setting.quick else 128, "n_heads": 4}
    stacks = {
        "transformer": ["attention"] * 6,
        "based": hybrid_layers(6, "based", at=(1, 4)),
        "jrt": hybrid_layers(6, "pla", at=(1, 4)),
    }
    models = {
        name: JRTForCausalLM(**width, layers=layers, symmetric=True, window=129)  # type: ignore[arg-type]
        .to(setting.device)
        .eval()
        .requires_grad_(False)
        for name, layers in stacks.items()
    }
    sizes: list[float] = []
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for length in (32,) if setting.quick else (1024, 2048, 4096, 8192, 16384):
        ids = torch.randint(256, (1, length), generator=torch.Generator().manual_seed(setting.seed)).to(setting.device)
        forms: dict[str, Callable[[], object]] = {n: partial(model.prefill, ids) for n, model in models.items()}
        found = yield Case(f"prefill {length:,}", forms, baseline="transformer", size=length, rounds=3)
        states = {name: model.prefill(ids)[1] for name, model in models.items()}
        steps: dict[str, Callable[[], object]] = {
            n: partial(model.step, ids[:, 0], states[n]) for n, model in models.items()
        }
        yield Case(f"a token after {length:,}", steps, baseline="transformer", rounds=7)
        for name, state in states.items():
            yield Row(
                f"after {length:,}", name, "state, KiB", state_bytes(state) / 1024, higher_is_better=False
            )  # fmt: skip
        if found is not None:
            sizes.append(length)
            for name, timing in found.items():
                seconds[name].append(timing.median_s)
    for name, times in seconds.items():
        if len(times) > 2:
            slope = fitted_slope(sizes[-3:], times[-3:])
            span = f"{sizes[-3]:,.0f} to {sizes[-1]:,.0f} tokens"
            yield Row(span, name, "exponent of growth", slope, higher_is_better=False)


def state(setting: Setting) -> Iterator[Case | Row | str]:
    """The state of a layer by feature size, merged or not, and what a token costs with it."""
    d_model, heads = (32, 2) if setting.quick else (256, 8)
    for feature_dim in (4,) if setting.quick else (4, 8, 16, 24):
        layers = {
            name: PrefixLinearAttention(d_model, heads, feature_dim=feature_dim, symmetric=symmetric)
            .to(setting.device)
            .requires_grad_(False)
            for name, symmetric in (("as it stands", False), ("merged", True))
        }
        x = _draw(setting, 1, d_model)
        for name, layer in layers.items():
            size = TaylorExp(feature_dim, symmetric=name == "merged").size
            kept = state_bytes((layer.initial_state(1),)) / 1024
            yield Row(f"d' = {feature_dim}", name, "features", size, higher_is_better=False)
            yield Row(f"d' = {feature_dim}", name, "state, KiB", kept, higher_is_better=False)
        steps = {n: partial(layer.step, x, layer.initial_state(1)) for n, layer in layers.items()}
        yield Case(f"a token, d' = {feature_dim}", steps, baseline="as it stands", size=feature_dim, rounds=7)


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """The authors' modules with the same weights and inputs: how close, and how fast."""
    folder = checkout()
    if folder is None:
        yield Row("HazyResearch/prefix-linear-attention", "ours", "compared", 0.0, note=f"{CHECKOUT} names no checkout")
        yield f"set {CHECKOUT} to a checkout of HazyResearch/prefix-linear-attention (and install einops)"
        return
    try:
        theirs = Official(folder)
    except ImportError as error:
        raise UserError(f"bench official: {error}") from error
    yield f"HazyResearch/prefix-linear-attention at {checkout_revision(folder)}; torch form of the layer, float32"
    for case, (found, wanted) in theirs.parity(seed=setting.seed).items():
        difference = float((found - wanted).abs().max())
        yield Row(case, "ours", "largest difference", difference, higher_is_better=False)
    for case, value in theirs.effects(seed=setting.seed).items():
        yield Row(case, "official", "largest difference", value, higher_is_better=False, note="a defect's effect")
    for task in TASKS:
        equal = theirs.equal_prompts(task, prompt, FIELDS[task], seed=setting.seed)
        yield Row(f"prompts of {task}, once and twice", "ours", "equal strings %", 100 * equal)
    yield "the effect of a defect is the difference to the same layer without it, at outputs of order 0.1"
    for length in (64,) if setting.quick else (256, 1024, 2048):
        layer, ours = theirs.layer(128, 4, length // 2)
        x = _draw(Setting(seed=setting.seed), 1, length, 128)

        def step(layer: torch.nn.Module, x: Tensor) -> None:
            layer.zero_grad()
            y = layer(x)
            (y if isinstance(y, Tensor) else y[0]).sum().backward()

        forms = {"official": partial(step, layer, x), "ours": partial(step, ours, x)}
        yield Case(f"layer, forward and backward, {length:,} tokens", forms, baseline="official", rounds=3)


BENCHMARKS: Mapping[str, Benchmark] = {
    "prefix": Benchmark("Prefix linear attention, forward and backward", prefix, xlabel="tokens"),
    "prefill": Benchmark("A prompt, and a token after it, against a Transformer", prefill, xlabel="tokens"),
    "state": Benchmark("The state by the size of the features", state, xlabel="d'"),
    "official": Benchmark("Beside the authors' code", official),
}
