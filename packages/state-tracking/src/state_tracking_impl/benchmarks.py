"""What is timed against what, declared."""

from collections.abc import Callable, Generator, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_impl.bench import Benchmark, Case, Setting, Timing, checkout_revision, fitted_slope
from shared_impl.results import Row

from .delta_rule import delta_product, delta_rule_chunk, delta_rule_recurrent
from .official import FORK, checkout, load_delta_rule, load_fla, mamba_pair
from .scan import selective_scan, selective_scan_recurrent

__all__ = ["BENCHMARKS"]


def _inputs(length: int, setting: Setting, *, heads: int = 4, dim: int = 64, steps: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(setting.seed)
    q = torch.randn(1, length, heads, dim, generator=generator)
    k = F.normalize(torch.randn(1, length, steps, heads, dim, generator=generator), dim=-1)
    v = torch.randn(1, length, steps, heads, dim, generator=generator)
    beta = 2 * torch.rand(1, length, steps, heads, generator=generator)
    if steps == 1:
        k, v, beta = k[:, :, 0], v[:, :, 0], beta[:, :, 0]
    return tuple(x.to(setting.device) for x in (q, k, v, beta))


def _train(form: Callable[..., tuple[Tensor, Tensor]], args: tuple[Tensor, ...]) -> None:
    leaves = [x.detach().requires_grad_() for x in args]
    torch.autograd.grad(form(*leaves, validate=False)[0].sum(), leaves)


def chunk(setting: Setting) -> Iterator[Case]:
    """The chunk form against the recurrent form, forward; and with gradients."""
    for length in (64, 128) if setting.quick else (256, 1024, 2048, 8192):
        args = _inputs(length, setting)
        forms: dict[str, Callable[[], object]] = {
            "token by token": lambda args=args: delta_rule_recurrent(*args, validate=False),
            "in chunks": lambda args=args: delta_rule_chunk(*args, validate=False),
        }
        yield Case(f"{length:,} tokens", forms, baseline="token by token", rounds=5, size=length)
    for length in (64,) if setting.quick else (2048,):
        args = _inputs(length, setting)
        forms = {
            "token by token": lambda args=args: _train(delta_rule_recurrent, args),
            "in chunks": lambda args=args: _train(delta_rule_chunk, args),
        }
        yield Case(f"{length:,} tokens with gradients", forms, baseline="token by token", rounds=3)


def selective(setting: Setting) -> Iterator[Case]:
    """Mamba's scan by an associative scan against step by step."""
    for length in (64, 128) if setting.quick else (256, 1024, 2048):
        u, delta, a, b, c = _mamba_inputs(length, setting)
        forms = {
            "step by step": lambda x=(u, delta, a, b, c): selective_scan_recurrent(*x, negative=True),
            "associative": lambda x=(u, delta, a, b, c): selective_scan(*x, negative=True),
        }
        yield Case(f"{length:,} tokens", forms, baseline="step by step", rounds=5, size=length)


def _mamba_inputs(length: int, setting: Setting) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(setting.seed)
    u = torch.randn(1, length, 64, generator=generator)
    delta = 0.1 * torch.rand(1, length, 64, generator=generator)
    a = -torch.arange(1, 9).float().expand(64, 8)
    b, c = torch.randn(2, 1, length, 8, generator=generator).unbind(0)
    return tuple(x.to(setting.device) for x in (u, delta, a, b, c))


def negative(setting: Setting) -> Iterator[Case | str]:
    """The range [-1, 1] against [0, 1]: what the switch costs."""
    length = 128 if setting.quick else 2048
    q, k, v, beta = _inputs(length, setting)
    raw = torch.logit(beta / 2, eps=1e-6)
    forms = {
        "[0, 1]": lambda: delta_rule_chunk(q, k, v, torch.sigmoid(raw), validate=False),
        "[-1, 1]": lambda: delta_rule_chunk(q, k, v, 2 * torch.sigmoid(raw), validate=False),
    }
    yield Case(f"delta rule, {length:,} tokens", forms, baseline="[0, 1]", rounds=15)
    x = _mamba_inputs(length, setting)
    forms = {
        "[0, 1]": lambda: selective_scan(*x),
        "[-1, 1]": lambda: selective_scan(*x, negative=True),
    }
    yield Case(f"selective scan, {length:,} tokens", forms, baseline="[0, 1]", rounds=15)


def householder(setting: Setting) -> Generator[Case | Row | str, Mapping[str, Timing] | None, None]:
    """One to four reflections a token."""
    length, counts = (64, (1, 2)) if setting.quick else (1024, (1, 2, 3, 4))
    forms = {}
    for count in counts:
        q, k, v, beta = _inputs(length, setting, steps=count)
        if count == 1:
            k, v, beta = k[:, :, None], v[:, :, None], beta[:, :, None]
        args = (q, k, v, beta)
        forms[f"{count} a token"] = lambda args=args: delta_product(*args, validate=False)
    found = yield Case(f"{length:,} tokens", forms, baseline="1 a token", rounds=5)
    assert found is not None
    slope = fitted_slope(counts, [found[f"{count} a token"].median_s for count in counts])
    yield Row("growth with the number of reflections", "in chunks", "exponent", slope)


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """The authors' code (its location in STATE_TRACKING_OFFICIAL_DIR): equal answers, then time."""
    folder = checkout()
    theirs, _ = load_delta_rule(folder / FORK)
    yield f"automl/unlocking_state_tracking@{checkout_revision(folder)}, beta up to 2."
    for dtype in (torch.float32, torch.float64):
        args = tuple(x.to(dtype) for x in _inputs(128 if setting.quick else 512, setting))
        difference = (theirs(*_heads_first(args)).transpose(1, 2) - delta_rule_chunk(*args)[0]).abs().max().item()
        yield _differs(f"delta rule, {str(dtype)[6:]}", difference)
    torch.manual_seed(setting.seed)
    x = torch.randn(2, 128, 32, dtype=torch.float64)
    for negative in (False, True):
        block, ours = mamba_pair(folder, negative=negative)
        with torch.no_grad():
            difference = (block(x) - ours(x)[0]).abs().max().item()
        yield _differs(f"Mamba block in {'[-1, 1]' if negative else '[0, 1]'}, float64", difference)
    for length in (64,) if setting.quick else (512, 2048):
        args = _inputs(length, setting)
        swapped = _heads_first(args)
        forms: dict[str, Callable[[], object]] = {
            "authors' naive": lambda x=swapped: theirs(*x),
            "token by token": lambda x=args: delta_rule_recurrent(*x, validate=False),
            "in chunks": lambda x=args: delta_rule_chunk(*x, validate=False),
        }
        yield Case(f"{length:,} tokens", forms, baseline="authors' naive", rounds=3)


def fla(setting: Setting) -> Iterator[Case | Row | str]:
    """The delta rule in plain torch of flash-linear-attention, token by token and in chunks."""
    number, recurrence, chunkwise = load_fla()
    yield f"flash-linear-attention {number}, its forms in plain torch (its kernels need a GPU)."
    for length in (64,) if setting.quick else (512, 2048):
        args = _inputs(length, setting)
        swapped = _heads_first(args)
        yield _differs(
            f"{length:,} tokens",
            (chunkwise(*swapped)[0].transpose(1, 2) - delta_rule_chunk(*args)[0]).abs().max().item(),
        )
        forms: dict[str, Callable[[], object]] = {
            "fla, token by token": lambda x=swapped: recurrence(*x),
            "fla, in chunks": lambda x=swapped: chunkwise(*x),
            "in chunks": lambda x=args: delta_rule_chunk(*x, validate=False),
        }
        yield Case(f"{length:,} tokens", forms, baseline="fla, in chunks", rounds=5)


def _heads_first(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.transpose(1, 2).contiguous() for x in args)


def _differs(what: str, difference: float) -> Row:
    return Row(what, "ours", "largest difference", difference, higher_is_better=False)


BENCHMARKS: Mapping[str, Benchmark] = {
    "chunk": Benchmark("The delta rule in chunks", chunk, xlabel="tokens"),
    "selective": Benchmark("Mamba's scan with negative factors", selective, xlabel="tokens"),
    "negative": Benchmark("What the range [-1, 1] costs", negative),
    "householder": Benchmark("Products of reflections", householder),
    "official": Benchmark("Beside the authors' code", official),
    "fla": Benchmark("Beside flash-linear-attention on a CPU", fla),
}
