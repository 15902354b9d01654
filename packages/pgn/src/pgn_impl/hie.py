"""Historical information extraction (HIE): what each step gathers of all steps before it, in one parallel operation.

    H_t = sum over k = 1 .. window of W_k x_{t-k} + b          (section 3.1; steps before the first are zero)

The weight is kept as a convolution has it, (d_model, d_in, window), oldest lag first. Four forms give the same numbers:

| form | what it is | cost for length L, window w |
|---|---|---|
| `loop` | the sum as written; the oracle of the tests | L w |
| `conv` | a convolution over the padded input without its last step (the official code) | L w |
| `dense` | one product with the block-Toeplitz matrix of the weights | L²: best for short, many sequences |
| `fft` | a product of spectra | L log L |
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pgn_impl.grouped import uniform_init_

__all__ = ["HIE", "Form", "gather_history", "toeplitz"]

Form = Literal["auto", "loop", "conv", "dense", "fft"]
DENSE_UP_TO = 128  # steps, where there are rows enough to pay for the matrix (`pgn-impl bench forms`)


def toeplitz(
    weight: Float[Tensor, "groups d_model d_in window"], length: int
) -> Float[Tensor, "groups inputs outputs"]:
    """The matrix that maps all steps (length × d_in) of a group to all H (length × d_model): zero unless older."""
    groups, d_model, d_in, window = weight.shape
    reach = min(window, length - 1)
    # lags 1 .. reach, newest first, at offsets length .. of 2 length - 1 possible ones (output step - input step)
    lags = F.pad(weight[..., window - reach :].flip(-1), (length, length - 1 - reach))
    blocks = lags.unfold(-1, length, 1).flip(-2)  # [group, d_model, d_in, input step, output step]
    return blocks.permute(0, 3, 2, 4, 1).reshape(groups, length * d_in, length * d_model)


def gather_history(
    x: Float[Tensor, "groups rows length d_in"],
    weight: Float[Tensor, "groups d_model d_in window"],
    bias: Float[Tensor, "groups d_model"],
    form: Form = "auto",
) -> Float[Tensor, "groups rows length d_model"]:
    """H of every step of `rows` sequences, for each of `groups` independent sets of weights.

    Raises:
        ValueError: for an unknown form.
    """
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
    groups, rows, length, d_in = x.shape
    d_model, window = weight.shape[1], weight.shape[3]
    if form == "auto":
        form = "dense" if length <= 32 or (length <= DENSE_UP_TO and rows >= 2 * length) else "fft"
    if length == 1:
        gathered = x.new_zeros(groups, rows, 1, d_model)
    elif form == "loop":
        steps = [x.new_zeros(groups, rows, d_model)]
        for t in range(1, length):
            past = x[:, :, max(0, t - window) : t]
            steps.append(torch.einsum("grkc,gdck->grd", past, weight[..., window - past.shape[2] :]))
        gathered = torch.stack(steps, 2)
    elif form == "conv":
        flat = x.permute(1, 0, 3, 2).reshape(rows, groups * d_in, length)
        padded = F.pad(flat, (window, 0))[..., :-1]
        found = F.conv1d(padded, weight.reshape(groups * d_model, d_in, window), groups=groups)
        gathered = found.view(rows, groups, d_model, length).permute(1, 0, 3, 2)
    elif form == "dense":
        found = torch.bmm(x.reshape(groups, rows, length * d_in), toeplitz(weight, length))
        gathered = found.view(groups, rows, length, d_model)
    else:
        gathered = _by_spectrum(x, weight)
    return gathered.add_(bias[:, None, None])


def _by_spectrum(x: Tensor, weight: Tensor) -> Tensor:
    length, window = x.shape[2], weight.shape[3]
    reach = min(window, length - 1)
    n = length + reach  # a linear convolution, not a circular one
    n += n % 2
    kernel = F.pad(weight[..., window - reach :].flip(-1), (1, 0))  # lag 0 has no weight: H_t never sees x_t
    spectrum = torch.fft.rfft(x.transpose(2, 3), n)  # [group, row, d_in, frequency]
    response = torch.fft.rfft(kernel, n)
    # complex products as batched matrix products, a frequency a batch entry
    product = torch.einsum("grcf,gdcf->grdf", spectrum, response)
    return torch.fft.irfft(product, n)[..., :length].transpose(2, 3)


class HIE(nn.Module):
    """A causal layer: the hidden state of a step is a linear map of the `window` steps before it.

    Args:
        d_in, d_model: features in and out.
        window: steps it reaches back, w.
        groups: independent sets of weights, for as many variables.
    """

    def __init__(self, d_in: int, d_model: int, window: int, *, groups: int = 1) -> None:
        super().__init__()
        for name, size in {"d_in": d_in, "d_model": d_model, "window": window, "groups": groups}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.window = window
        self.weight = nn.Parameter(torch.empty(groups, d_model, d_in, window))
        self.bias = nn.Parameter(torch.empty(groups, d_model))
        uniform_init_(self.weight, self.bias, d_in * window)

    def forward(
        self, x: Float[Tensor, "groups rows length d_in"], form: Form = "auto"
    ) -> Float[Tensor, "groups rows length d_model"]:
        """H of every step."""
        return gather_history(x, self.weight, self.bias, form)
