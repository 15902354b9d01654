"""What is timed against what, declared."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision, fitted_slope
from shared_impl.results import Row

from .baselines import LSTMLayer, TransformerAttention
from .config import ClassifierConfig
from .ema import MultiHeadEMA, ema_parallel_scan
from .layer import Block, FeedForward, MegaLayer
from .model import TCNCAClassifier
from .official import (
    checkout,
    from_official_block,
    from_official_encoder,
    from_official_layer,
    official_modules,
)
from .tcn import CausalTCN, tcn_for_length

__all__ = ["BENCHMARKS"]

Form = Callable[[], object]


def _backward(form: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> None:
    torch.autograd.grad(form(x).sum(), [x, *parameters])


def mixer(setting: Setting) -> Iterator[Case | Row | str]:
    """Appendix H: 64 channels, a bare dilated stack (K=17, D=4) against a bidirectional EMA of 8 states.

    Forward, then forward and backward.
    """
    sizes = (1024,) if setting.quick else (8192, 16_384, 32_768, 65_536, 131_072)
    times: dict[str, list[float]] = {}
    for backward in (False, True):
        for length in sizes:
            x = torch.randn(1, length, 64, device=setting.device, requires_grad=backward)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shape = (64, 17, tcn_for_length(length), 4)
                conv, shift, in_place = (
                    CausalTCN(*shape, norm="none", activation="none", residual=False, conv_form=form)
                    .to(setting.device).requires_grad_(backward)
                    for form in ("conv1d", "shift", "in_place")
                )  # fmt: skip
            ema = MultiHeadEMA(64, 8, bidirectional=True, activation=False).to(setting.device).requires_grad_(backward)
            kernel = ema.kernel(length).detach().requires_grad_(backward)
            decay, into, out = (c[:64].detach().requires_grad_(backward) for c in ema.coefficients())
            forms: dict[str, tuple[Callable[[Tensor], Tensor], list[Tensor]]] = {
                "FFT-EMA": (ema.convolve, [p for n, p in ema.named_parameters() if n != "omega"]),
                "FFT-EMA, kernel kept": (partial(ema.convolve, kernel=kernel), [kernel]),
                "TCN conv1d": (partial(_plain, conv), list(conv.weights)),
                "TCN shift-and-add": (partial(_plain, shift), list(shift.weights)),
            }
            if backward:
                forms["TCN in place"] = (partial(_plain, in_place), list(in_place.weights))
            if length <= 8192:  # over all states at once it needs gigabytes beyond
                forms["EMA, parallel scan, one direction"] = (
                    lambda x, d=decay, i=into, o=out: ema_parallel_scan(x, d, i, o), [decay, into, out],
                )  # fmt: skip
            found = yield Case(
                f"{'and backward' if backward else 'forward'}, {length:,}",
                {
                    name: partial(_backward, form, x, parameters) if backward else partial(form, x)
                    for name, (form, parameters) in forms.items()
                },
                baseline="FFT-EMA", size=None if backward else length, rounds=3,
            )  # fmt: skip
            for name in ("FFT-EMA", "TCN conv1d"):
                if found is not None and not backward:
                    times.setdefault(name, []).append(found[name].median_s)
    yield from _slopes(sizes, times)


def _plain(module: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, module(x, return_state=False)[0])


def _slopes(sizes: tuple[int, ...], times: Mapping[str, list[float]]) -> Iterator[Row]:
    if len(sizes) > 1:
        for name, seconds in times.items():
            yield Row(
                f"{sizes[0]:,} to {sizes[-1]:,}", name, "exponent of growth", fitted_slope(sizes, seconds),
                higher_is_better=False,
            )  # fmt: skip


def layer(setting: Setting) -> Iterator[Case | Row | str]:
    """Whole layers, forward and backward apart: the paper's, MEGA's, attention over everything, and an LSTM."""
    sizes = (256,) if setting.quick else (1024, 4096, 16_384)
    times: dict[str, list[float]] = {}
    for backward in (False, True):
        for length in sizes:
            x = torch.randn(1, length, 64, device=setting.device, requires_grad=backward)
            shape: dict[str, Any] = {"dilation_factor": tcn_for_length(length)}
            layers: dict[str, nn.Module] = {
                "MEGA": MegaLayer(64, "ema"),
                "TCNCA": MegaLayer(64, "tcn", **shape),
                "Transformer": TransformerAttention(64),
                "LSTM": LSTMLayer(64),
            }
            forms: dict[str, Form] = {}
            for name, module in layers.items():
                module.to(setting.device).requires_grad_(backward)
                form = partial(_plain, module)
                forms[name] = partial(_backward, form, x, list(module.parameters())) if backward else partial(form, x)
            found = yield Case(
                f"{'and backward' if backward else 'forward'}, {length:,}", forms, baseline="MEGA",
                size=None if backward else length, rounds=3, memory=not backward and not setting.quick,
            )  # fmt: skip
            for name in forms:
                if found is not None and not backward:
                    times.setdefault(name, []).append(found[name].median_s)
    yield from _slopes(sizes, times)


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """MEGA's own code beside ours at equal weights: largest difference, and time."""
    folder = checkout()
    with official_modules(folder) as mega, torch.no_grad():
        for attn_fn in ("softmax", "laplace", "relu2"):
            for rel_bias in ("simple", "rotary"):
                for causal in (True, False):
                    yield _layer_difference(mega, attn_fn, rel_bias, causal)
        yield _step_difference(mega)
        for norm in ("layernorm", "scalenorm", "batchnorm"):
            yield _block_difference(mega, norm, prenorm=norm == "batchnorm")
        yield _encoder_difference(mega)
        for length in (256,) if setting.quick else (1024, 4096, 16_384):
            theirs = mega.layer(64, 16, 128, 16, chunk_size=128, rel_pos_bias="rotary").eval()
            ours = MegaLayer(64, "ema", chunk=128).eval()
            tcnca = MegaLayer(64, "tcn", chunk=128, dilation_factor=tcn_for_length(length)).eval()
            x = torch.randn(1, length, 64)
            visible = _future(128)

            def run(x: Tensor = x, theirs: Any = theirs, visible: Tensor = visible) -> object:
                theirs.move._kernel = None  # as in training, where the kernel is made anew
                return theirs(x.transpose(0, 1), attn_mask=visible)

            forms: dict[str, Form] = {
                "official MEGA": run, "our MEGA": partial(_plain, ours, x), "TCNCA": partial(_plain, tcnca, x)
            }  # fmt: skip
            yield Case(f"layer forward, {length:,}", forms, baseline="official MEGA", rounds=3)
    yield f"official: facebookresearch/mega@{checkout_revision(folder)}; no official TCNCA code was found"


def _future(chunk: int, attn_fn: str = "softmax") -> Tensor:
    seen = torch.ones(chunk, chunk).tril()
    return seen if attn_fn != "softmax" else torch.zeros(chunk, chunk).masked_fill(seen == 0, -torch.inf)


_SIZES: dict[str, Any] = {"z": 16, "h": 64, "n_states": 8, "chunk": 16}


def _equal_weights(theirs: nn.Module, ours: nn.Module, convert: Callable[[Any], dict[str, Tensor]]) -> None:
    # of order one tenth, so that no part of the layer is close to nothing
    for parameter in theirs.eval().parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    ours.eval().load_state_dict(convert(theirs.state_dict()))


def _difference(task: str, ours: Tensor, theirs: Tensor) -> Row:
    worst = float((ours - theirs).abs().max() / theirs.abs().max())
    return Row(f"same weights: {task}", "ours", "largest relative difference", worst, higher_is_better=False)


def _layer_difference(mega: Any, attn_fn: str, rel_bias: str, causal: bool) -> Row:
    theirs = mega.layer(
        32, 16, 64, 8, attention_activation=attn_fn, bidirectional=not causal, chunk_size=16, rel_pos_bias=rel_bias,
    )  # fmt: skip
    ours = MegaLayer(32, "ema", **_SIZES, attn_fn=attn_fn, rel_bias=rel_bias, bidirectional=not causal)
    _equal_weights(theirs, ours, from_official_layer)
    x = torch.randn(2, 64, 32)
    expected, _ = theirs(x.transpose(0, 1), attn_mask=_future(16, attn_fn) if causal else None)
    task = f"layer, {attn_fn}, {rel_bias}, {'causal' if causal else 'both directions'}"
    return _difference(task, _plain(ours, x), expected.transpose(0, 1))


def _step_difference(mega: Any) -> Row:
    theirs = mega.layer(32, 16, 64, 8, chunk_size=16, rel_pos_bias="rotary")
    ours = MegaLayer(32, "ema", **_SIZES)
    _equal_weights(theirs, ours, from_official_layer)
    kept: dict[str, Any] = {}
    state, mine, other = None, [], []
    for x_t in torch.randn(40, 2, 32):
        other.append(theirs(x_t.unsqueeze(0), incremental_state=kept)[0][0])
        y, state = ours.step(x_t, state)
        mine.append(y)
    return _difference("40 steps across chunks", torch.stack(mine), torch.stack(other))


def _block_difference(mega: Any, norm: str, *, prenorm: bool) -> Row:
    theirs = mega.block(32, 64, 48, 16, 8, chunk_size=16, norm_type=norm, prenorm=prenorm)
    shape: dict[str, Any] = {"norm": norm, "prenorm": prenorm}
    ours = Block(
        MegaLayer(32, "ema", **_SIZES, rel_bias="simple", bidirectional=True, **shape), FeedForward(32, 48, **shape)
    )
    _equal_weights(theirs, ours, from_official_block)
    x = torch.randn(2, 64, 32)
    task = f"block with feed-forward, {norm} {'before' if prenorm else 'after'}"
    return _difference(task, _plain(ours, x), theirs(x.transpose(0, 1))[0].transpose(0, 1))


def _encoder_difference(mega: Any) -> Row:
    theirs = mega.encoder(
        0, 20, 2, embedding_dim=32, hidden_dim=64, ffn_hidden_dim=48, z_dim=16, n_dim=8, chunk_size=16,
        norm_type="scalenorm", max_seq_len=100, sen_rep_type="mp",
    )  # fmt: skip
    config = ClassifierConfig(
        architecture="mega", vocab_size=20, d_model=32, n_layers=2, ffn=48, rel_bias="simple", norm="scalenorm",
        prenorm=False, **_SIZES,
    )  # fmt: skip
    ours = TCNCAClassifier(config)
    head = {name: value for name, value in ours.state_dict().items() if name.startswith("head.")}
    _equal_weights(theirs, ours, lambda state: {**from_official_encoder(state), **head})
    lengths = torch.tensor([50, 37])
    ids = torch.randint(1, 20, (2, 50)) * (torch.arange(50) < lengths.unsqueeze(1))
    return _difference("arena encoder with padding", ours.features(ids, lengths), theirs(ids, lengths)[1])


def peers(setting: Setting) -> Iterator[Case | Row | str]:
    """What a user would find on PyPI: mega-pytorch (one layer) and pytorch-tcn (the bare stack)."""
    import importlib

    try:
        their_layer = importlib.import_module("mega_pytorch.mega_pytorch").MegaLayer
    except ImportError:
        their_layer = None
        yield "mega-pytorch is not installed (extra peers)"
    if their_layer is None:
        return
    for length in (256,) if setting.quick else (1024, 4096):
        x = torch.randn(1, length, 64)
        theirs = their_layer(dim=64, ema_heads=16, attn_dim_qk=16, attn_dim_value=128, causal=True).eval()
        modules = {
            "our MEGA": MegaLayer(64, "ema"), "TCNCA": MegaLayer(64, "tcn", dilation_factor=tcn_for_length(length))
        }  # fmt: skip
        forms: dict[str, Form] = {"mega-pytorch": partial(theirs.requires_grad_(False), x)}
        forms |= {name: partial(_plain, module.requires_grad_(False), x) for name, module in modules.items()}
        yield Case(f"layer forward, {length:,}", forms, baseline="mega-pytorch", rounds=3)


BENCHMARKS: Mapping[str, Benchmark] = {
    "mixer": Benchmark("Mixer alone, forward", mixer, xlabel="length"),
    "layer": Benchmark("Whole layer, forward", layer, xlabel="length"),
    "official": Benchmark("Beside MEGA's own code", official),
    "peers": Benchmark("Beside packages on PyPI", peers),
}
