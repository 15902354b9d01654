"""The residual stack of dilated causal convolutions (section 2, figure 1b, appendix E)."""

import warnings
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .norms import SequenceNorm, activation_function, check_input

__all__ = [
    "CausalTCN",
    "SparseTapsWarning",
    "TCNState",
    "causal_conv",
    "causal_conv_reference",
    "receptive_field",
    "seen_positions",
    "tcn_for_length",
]

ConvForm = Literal["auto", "conv1d", "shift", "in_place"]
_FEW_TAPS = 8  # up to which a sum in place is faster than conv1d


class SparseTapsWarning(UserWarning):
    """The taps of a stack leave holes in its receptive field."""


def _check_shape(kernel: int, dilation_factor: int, depth: int, convs_per_block: int) -> None:
    for name, value in (
        ("kernel", kernel),
        ("dilation_factor", dilation_factor),
        ("depth", depth),
        ("convs_per_block", convs_per_block),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def receptive_field(kernel: int, dilation_factor: int, depth: int, convs_per_block: int = 1) -> int:
    """R = 1 + B (K-1) (f^D - 1) / (f - 1): how far back an output reaches, itself included (appendix E).

    Raises:
        ValueError: a number below 1.
    """
    _check_shape(kernel, dilation_factor, depth, convs_per_block)
    return 1 + convs_per_block * (kernel - 1) * sum(dilation_factor**i for i in range(depth))


def seen_positions(kernel: int, dilation_factor: int, depth: int, convs_per_block: int = 1) -> int:
    """How many of the positions in the receptive field reach the output at all; fewer than R where taps leave holes.

    Raises:
        ValueError: a number below 1.
    """
    _check_shape(kernel, dilation_factor, depth, convs_per_block)
    reached = 1  # bit d is set if the input d steps back is seen
    for i in range(depth):
        for _ in range(convs_per_block):
            before, reached = reached, 0
            for tap in range(kernel):
                reached |= before << (tap * dilation_factor**i)
    return reached.bit_count()


def tcn_for_length(length: int, kernel: int = 17, depth: int = 4, convs_per_block: int = 1) -> int:
    """The smallest dilation factor whose receptive field is at least `length` (appendix H).

    Raises:
        ValueError: a number below 1, or no factor reaches it (kernel 1, or one block that is too short).
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    factor = 1
    while receptive_field(kernel, factor, depth, convs_per_block) < length:
        if kernel == 1 or depth == 1:
            raise ValueError(
                f"kernel {kernel} with depth {depth} reaches {receptive_field(kernel, 1, depth, convs_per_block)} "
                f"positions whatever the dilation, length is {length}"
            )
        factor += 1
    return factor


def causal_conv_reference(
    x: Float[Tensor, "batch length d_model"], weight: Float[Tensor, "d_model kernel"], dilation: int = 1
) -> Float[Tensor, "batch length d_model"]:
    """y_t = sum_j w_j x_{t - (K-1-j) dilation}, term by term; the oracle."""
    kernel = weight.shape[1]
    y = torch.zeros_like(x)
    for t in range(x.shape[1]):
        for j in range(kernel):
            s = t - (kernel - 1 - j) * dilation
            if s >= 0:
                y[:, t] = y[:, t] + weight[:, j] * x[:, s]
    return y


def causal_conv(
    x: Float[Tensor, "batch length d_model"],
    weight: Float[Tensor, "d_out in_per_group kernel"],
    dilation: int = 1,
    *,
    groups: int | None = None,
    form: ConvForm = "auto",
) -> Float[Tensor, "batch length d_out"]:
    """A causal dilated convolution; taps that reach before the start are left out.

    Forms: `conv1d`, with padding on the left; and, for depthwise convolutions, `shift`, a sum of shifted inputs, and
    `in_place`, the same sum in one tensor with its own backward pass. `auto` is `in_place` where gradients are taken on
    a CPU, else `conv1d`: the fastest that `bench mixer` measured (a GPU was not tried).

    Raises:
        ValueError: an unknown form, or shift or in_place for a convolution that is not depthwise.
    """
    d_model, length, kernel = x.shape[2], x.shape[1], weight.shape[2]
    groups = d_model if groups is None else groups
    depthwise = groups == d_model and weight.shape[0] == d_model
    if form not in get_args(ConvForm):
        raise ValueError(f"form must be one of {', '.join(get_args(ConvForm))}, got {form!r}")
    if form in ("shift", "in_place") and not depthwise:
        raise ValueError(f"form {form} is for depthwise convolutions, got groups={groups} for {d_model} channels")
    # taps further back than the sequence is long see padding only
    useful = min(kernel, 1 + (length - 1) // dilation)
    weight = weight[:, :, kernel - useful :]
    if form == "auto":
        trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        in_place = trained and depthwise and x.device.type == "cpu" and x.dtype == weight.dtype
        form = "in_place" if in_place and not torch.is_autocast_enabled("cpu") else "conv1d"
    if form == "in_place":
        return cast(Tensor, _InPlaceConv.apply(x, weight.squeeze(1), dilation))
    if form == "shift":
        y = x * weight[:, 0, useful - 1]
        for back in range(1, useful):
            earlier = x[:, : length - back * dilation] * weight[:, 0, useful - 1 - back]
            y = y + F.pad(earlier, (0, 0, back * dilation, 0))
        return y
    return _conv1d(x, weight, dilation, groups)


def _conv1d(x: Tensor, weight: Tensor, dilation: int, groups: int) -> Tensor:
    padded = F.pad(x.transpose(1, 2), ((weight.shape[2] - 1) * dilation, 0))
    return F.conv1d(padded, weight, dilation=dilation, groups=groups).transpose(1, 2)


class _InPlaceConv(torch.autograd.Function):
    """Depthwise; x (batch, length, d_model), weight (d_model, kernel), every tap within the length."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation, kernel = dilation, weight.shape[1]
        if kernel > _FEW_TAPS:
            return _conv1d(x, weight.unsqueeze(1), dilation, weight.shape[0])
        y = x * weight[:, kernel - 1]
        for back in range(1, kernel):
            offset = back * dilation
            y[:, offset:].addcmul_(x[:, :-offset], weight[:, kernel - 1 - back])
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (g,), (x, weight), dilation = gradients, ctx.saved_tensors, ctx.dilation
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted
            y = _conv1d(x, weight.unsqueeze(1), dilation, weight.shape[0])
            to_x, to_weight = torch.autograd.grad(y, (x, weight), g, create_graph=True)
            return to_x, to_weight, None
        kernel = weight.shape[1]
        to_x, to_weight = g * weight[:, kernel - 1], torch.empty_like(weight)
        to_weight[:, kernel - 1] = (g * x).sum((0, 1))
        for back in range(1, kernel):
            offset, tap = back * dilation, kernel - 1 - back
            to_x[:, :-offset].addcmul_(g[:, offset:], weight[:, tap])
            to_weight[:, tap] = (g[:, offset:] * x[:, :-offset]).sum((0, 1))
        return to_x, to_weight, None


class TCNState(NamedTuple):
    """Ring buffers of the last (K-1) f^i inputs of each convolution, and the step at which each started."""

    rings: tuple[Float[Tensor, "batch span d_model"], ...]
    position: int


class CausalTCN(nn.Module):
    """x <- x + act(norm(conv_i(x))) for blocks i = 0 .. depth - 1, dilation f^i (section 2).

    Weights start from N(0, 0.02). With `convs_per_block=2` a block is (conv, norm, act) twice, then the skip: the
    classical TCN. Bidirectional: a second stack on the reversed sequence, summed.

    Args:
        groups: of each convolution; None: depthwise, as in the paper.
        norm: `layernorm`, `scalenorm`, `rmsnorm`, `batchnorm` or `none`.
        residual: False leaves the skip out (the bare stack of appendix H).
        conv_form: see `causal_conv`.

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(
        self,
        d_model: int,
        kernel: int = 17,
        dilation_factor: int = 8,
        depth: int = 4,
        convs_per_block: int = 1,
        *,
        norm: str = "layernorm",
        activation: str = "silu",
        groups: int | None = None,
        bidirectional: bool = False,
        residual: bool = True,
        conv_form: ConvForm = "auto",
    ) -> None:
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model must be at least 1, got {d_model}")
        self.receptive_field = receptive_field(kernel, dilation_factor, depth, convs_per_block)
        self.groups = d_model if groups is None else groups
        if self.groups < 1 or d_model % self.groups:
            raise ValueError(f"groups must divide d_model={d_model}, got {groups}")
        if dilation_factor > kernel and depth > 1:
            seen = seen_positions(kernel, dilation_factor, depth, convs_per_block)
            if seen < self.receptive_field:
                warnings.warn(
                    f"dilation_factor {dilation_factor} is larger than kernel {kernel}: only {seen} of the "
                    f"{self.receptive_field} positions of the receptive field are seen",
                    SparseTapsWarning,
                    stacklevel=2,
                )
        self.d_model, self.kernel, self.depth = d_model, kernel, depth
        self.dilations = [dilation_factor**i for i in range(depth) for _ in range(convs_per_block)]
        self.convs_per_block, self.residual, self.conv_form = convs_per_block, residual, conv_form
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(d_model, d_model // self.groups, kernel)) for _ in self.dilations
        )
        self.norms = nn.ModuleList(SequenceNorm(norm, d_model) for _ in self.dilations)
        self.activation = activation_function(activation)
        self.backward_stack = (
            CausalTCN(
                d_model, kernel, 1, depth, convs_per_block, norm=norm, activation=activation, groups=groups,
                residual=residual, conv_form=conv_form,
            )
            if bidirectional
            else None
        )  # fmt: skip
        if self.backward_stack is not None:
            # made with dilation 1 and corrected here, so that a warning about holes comes once
            self.backward_stack.dilations = self.dilations
            self.backward_stack.receptive_field = self.receptive_field
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions from N(0, 0.02)."""
        for weight in self.weights:
            nn.init.normal_(weight, std=0.02)

    def initial_state(self, batch_size: int) -> TCNState:
        """Zeros before the start, as the padding is."""
        like = self.weights[0]
        spans = [(self.kernel - 1) * dilation for dilation in self.dilations]
        return TCNState(tuple(like.new_zeros(batch_size, span, self.d_model) for span in spans), 0)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: TCNState | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Float[Tensor, "batch length d_model"], TCNState | None]:
        """The sequence, or a piece that continues one.

        Args:
            mask: True where there is data; other positions are held at zero in every block, as the padding is.

        Raises:
            ValueError: a state with a bidirectional stack or a norm over time; a wrong shape.
        """
        check_input(x, self.d_model)
        if state is not None:
            self._refuse_streaming()
        keep = None if mask is None else mask.unsqueeze(-1).to(x.dtype)
        start = x if keep is None else x * keep
        y, rings = start, []
        for block in range(self.depth):
            inner = y
            for i in range(block * self.convs_per_block, (block + 1) * self.convs_per_block):
                weight, dilation = self.weights[i], self.dilations[i]
                span, source = (self.kernel - 1) * dilation, inner
                if state is not None:
                    cursor = state.position % span if span else 0
                    source = torch.cat([state.rings[i].roll(-cursor, 1), inner], 1)
                out = causal_conv(source, weight, dilation, groups=self.groups, form=self.conv_form)
                if return_state:
                    padded = F.pad(source, (0, 0, max(0, span - source.shape[1]), 0))
                    rings.append(padded[:, padded.shape[1] - span :])
                inner = self.activation(self.norms[i](out[:, out.shape[1] - x.shape[1] :]))
                if keep is not None:
                    inner = inner * keep
            y = y + inner if self.residual else inner
        if self.backward_stack is not None:
            flipped = None if mask is None else mask.flip(1)
            back, _ = self.backward_stack(start.flip(1), None, flipped, return_state=False)
            return y + back.flip(1), None
        return y, TCNState(tuple(rings), 0) if return_state else None

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: TCNState | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], TCNState]:
        """One position: each convolution reads its K taps out of its ring.

        Raises:
            ValueError: as `forward`.
        """
        check_input(x_t.unsqueeze(1), self.d_model)
        self._refuse_streaming()
        state = self.initial_state(x_t.shape[0]) if state is None else state
        y, rings = x_t, []
        for block in range(self.depth):
            inner = y
            for i in range(block * self.convs_per_block, (block + 1) * self.convs_per_block):
                weight, dilation, ring = self.weights[i], self.dilations[i], state.rings[i].to(x_t.dtype)
                span = ring.shape[1]
                taps = inner.unsqueeze(1)
                if span:
                    oldest_first = (
                        state.position + dilation * torch.arange(self.kernel - 1, device=ring.device)
                    ) % span
                    taps = torch.cat([ring[:, oldest_first], taps], 1)
                    slot = torch.tensor([state.position % span], device=ring.device)
                    ring = ring.index_copy(1, slot, inner.unsqueeze(1))
                out = F.conv1d(taps.transpose(1, 2), weight, groups=self.groups).transpose(1, 2)
                rings.append(ring)
                inner = self.activation(self.norms[i](out)).squeeze(1)
            y = y + inner if self.residual else inner
        return y, TCNState(tuple(rings), state.position + 1)

    def _refuse_streaming(self) -> None:
        if self.backward_stack is not None:
            raise ValueError("a bidirectional stack reads the future, so it takes no state")
        for norm in self.norms:
            assert isinstance(norm, SequenceNorm)
            norm.refuse_streaming()
