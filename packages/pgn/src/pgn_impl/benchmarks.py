"""Speed, and how far gradients reach: each function measures one thing and returns a record.

Times are of forms run in turns in one process, and what counts is their ratio.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pgn_impl.hie import gather_history
from pgn_impl.models import LABELS, build, settings
from pgn_impl.official import from_official, load_official, official_model
from pgn_impl.pgn import PGN
from pgn_impl.tpgn import TPGN
from shared_impl.bench import Timing, checkout_revision, compare
from shared_impl.cli import UserError
from shared_impl.results import Record, Row, plot_curves
from shared_impl.train import count_parameters

__all__ = [
    "BENCHMARKS",
    "bench_forms",
    "bench_gradient",
    "bench_official",
    "bench_step",
    "gradient_reach",
    "multiply_adds",
]

WIDTH, BATCH, HORIZON, PERIOD, MARKS = 32, 32, 168, 24, 4
WEEK, WEEKLY = 168, "TPGN, period 168"


def gradient_reach(module: nn.Module, d_in: int, length: int, *, batch: int = 8) -> Float[Tensor, "length"]:
    """Norm of the gradient of the last output, along a random direction, at each distance back from the last input.

    Args:
        module: from (batch, length, d_in) to (batch, length, d).
    """
    x = torch.randn(batch, length, d_in, requires_grad=True)
    last = module(x)[:, -1]
    (gradient,) = torch.autograd.grad((last * torch.randn_like(last)).sum(), x)
    return gradient.square().sum((0, 2)).sqrt().flip(0)


def multiply_adds(model: str, seq_len: int, pred_len: int, *, d_model: int = WIDTH, period: int = PERIOD) -> int:
    """Products of weights and inputs for one univariate window, of "tpgn" or "lstm"; zeros of the padding not counted.

    TPGN's history alone has (1 + F) R (R - 1) / 2 · P · d of them: quadratic in the number of periods.
    """
    d, z = d_model, 1 + MARKS
    if model == "lstm":
        return seq_len * 4 * d * (z + d) + d * pred_len
    rows, rows_out = -(-seq_len // period), -(-pred_len // period)
    history = rows * (rows - 1) // 2 * period * z * d
    gates = rows * period * (z + d) * 2 * d
    long = period * rows * d * d
    short = rows * period * z * d + rows * d * d
    return history + gates + long + short + period * rows_out * 2 * d


def bench_step(*, out_dir: Path, quick: bool = False, seed: int = 0) -> Record:
    """A training step and a forecast of a batch, by length of the window: TPGN, LSTM of equal width, and others."""
    record = Record.start("pgn_impl", "step", preset="cpu", seeds=[seed], kind="bench")
    record.config.update(d_model=WIDTH, batch=BATCH, horizon=HORIZON, period=PERIOD)
    torch.manual_seed(seed)
    rounds = 1 if quick else 5
    for length in (48,) if quick else (168, 336, 672, 1344, 2688):
        models = {
            LABELS[name]: _model(name, length) for name in ("lstm", "tpgn", "dlinear", "patchtst", "itransformer")
        }
        if length >= 2 * WEEK:
            models[WEEKLY] = _model("tpgn", length, WEEK)
        inputs = torch.randn(BATCH, length, 1), torch.rand(BATCH, length, MARKS) - 0.5
        future, y = torch.rand(BATCH, HORIZON, MARKS) - 0.5, torch.randn(BATCH, HORIZON, 1)
        timings = {}
        for model in models.values():
            model.train()
        steps = {label: _training_step(model, (*inputs, future), y) for label, model in models.items()}
        timings["training step"] = compare(steps, baseline="LSTM", rounds=rounds)
        for model in models.values():
            model.eval()
        forecasts = {label: _without_gradients(model, (*inputs, future)) for label, model in models.items()}
        timings["forecast"] = compare(forecasts, baseline="LSTM", rounds=rounds)
        task = f"window of {length}"
        for what, found in timings.items():
            for label in models:
                if label != "LSTM":
                    note = f"{1e3 * found[label].median_s:.2f} ms against {1e3 * found['LSTM'].median_s:.2f} ms"
                    record.add(_ratio(found[label], task, label, f"{what}, times the LSTM's speed", note, rounds))
        for label, name, period in (("TPGN", "tpgn", PERIOD), (WEEKLY, "tpgn", WEEK), ("LSTM", "lstm", PERIOD)):
            if label in models:
                count = multiply_adds(name, length, HORIZON, period=period) / 1e6
                note = f"{count_parameters(models[label]):,} parameters"
                row = Row(task=task, model=label, metric="million multiply-adds a window", value=count)
                record.add(_lower(row, note))
    record.notes.append(
        f"Batches of {BATCH}, {HORIZON} steps ahead, one variable; TPGN and LSTM of width {WIDTH}, TPGN's period "
        f"{PERIOD} unless given; the others with their authors' settings (PatchTST 16, iTransformer 128 wide)."
    )
    return record


def bench_forms(*, out_dir: Path, quick: bool = False, seed: int = 0) -> Record:
    """The forms of HIE, forward and backward: a loop over steps, a convolution, a Toeplitz matrix, spectra."""
    record = Record.start("pgn_impl", "forms", preset="cpu", seeds=[seed], kind="bench")
    d_in = 1 + MARKS
    record.config.update(d_in=d_in, d_model=WIDTH)
    torch.manual_seed(seed)
    rounds = 1 if quick else 5
    # rows × length: TPGN's grid for windows of 168, 336, 1344, 2688 hours; a PGN layer over single sequences
    sizes = ((8, 7), (2, 30)) if quick else ((768, 7), (768, 14), (768, 56), (768, 112), (32, 168), (32, 1344))
    for rows, length in sizes:
        x = torch.randn(1, rows, length, d_in, requires_grad=True)
        weight = torch.randn(1, WIDTH, d_in, length - 1, requires_grad=True)
        bias = torch.zeros(1, WIDTH, requires_grad=True)
        # the Toeplitz matrix of the longest would fill a gigabyte
        names = ["loop", "conv", "dense", "fft"] if length <= 168 else ["loop", "conv", "fft"]

        def run(form: str, x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> object:
            out = gather_history(x, weight, bias, form)  # type: ignore[arg-type]
            return torch.autograd.grad(out.sum(), (x, weight, bias))

        forms: dict[str, Callable[[], object]] = {name: lambda name=name, run=run: run(name) for name in names}  # type: ignore[misc]
        found = compare(forms, baseline="loop", rounds=rounds if length <= 168 else min(rounds, 3))
        for name in names[1:]:
            note = f"{1e3 * found[name].median_s:.2f} ms against {1e3 * found['loop'].median_s:.2f} ms"
            record.add(
                _ratio(
                    found[name],
                    f"{rows} rows of {length}",
                    name,
                    "forward and backward, times the loop's speed",
                    note,
                    rounds,
                )
            )
    record.notes.append(
        "The full history (window = length - 1). `auto` takes dense up to length 32, up to 128 where rows are "
        "twice as many, and else fft."
    )
    return record


def bench_gradient(*, out_dir: Path, quick: bool = False, seed: int = 0) -> Record:
    """How the gradient of the last output falls off with the distance of the input, at initialisation."""
    record = Record.start("pgn_impl", "gradient", preset="cpu", seeds=[seed], kind="bench")
    length, repeats = (33, 2) if quick else (513, 16)
    d_in = 4
    makers: dict[str, Callable[[], nn.Module]] = {
        "PGN": lambda: PGN(d_in, WIDTH, seq_len=length),
        "LSTM": lambda: _States(nn.LSTM(d_in, WIDTH, batch_first=True)),
        "GRU": lambda: _States(nn.GRU(d_in, WIDTH, batch_first=True)),
        "plain RNN": lambda: _States(nn.RNN(d_in, WIDTH, batch_first=True)),
    }
    edge = length // 8
    curves = {}
    for name, make in makers.items():
        torch.manual_seed(seed)
        norm = torch.stack([gradient_reach(make(), d_in, length) for _ in range(repeats)]).mean(0)
        ratio = float(norm[-edge:].mean() / norm[1 : 1 + edge].mean())
        task = f"distances {length - edge} to {length - 1} over 1 to {edge}"
        record.add(Row(task=task, model=name, metric="gradient norm, ratio", value=ratio, n=repeats))
        # floor: below float32's reach a curve would leave the plot
        curves[name] = (list(range(length)), norm.clamp_min(1e-12).tolist())
    plot = plot_curves(
        out_dir / "bench_gradient.png",
        curves,
        xlabel="distance (steps)",
        ylabel="gradient norm",
        title="Last output with respect to inputs before it, at initialisation",
        logy=True,
    )
    record.plots.append(plot.name)
    record.notes.append(f"Width {WIDTH}, {repeats} initialisations, random inputs and directions.")
    return record


def bench_official(*, out_dir: Path, quick: bool = False, seed: int = 0) -> Record:
    """Beside the authors' TPGN, from the checkout that PGN_OFFICIAL_DIR names, with the same weights.

    Raises:
        UserError: without the checkout.
    """
    place = os.environ.get("PGN_OFFICIAL_DIR")
    if not place:
        raise UserError("bench official needs PGN_OFFICIAL_DIR: the folder of a checkout of Water2sea/TPGN")
    official = load_official(Path(place))
    record = Record.start("pgn_impl", "official", preset="cpu", seeds=[seed], kind="bench")
    rounds = 1 if quick else 9
    sizes: tuple[tuple[int, int, int, int, bool], ...] = (
        (168, 168, 1, 2, True),
        (168, 168, 1, 8, False),
        (168, 720, 1, 32, False),
        (168, 1440, 1, 128, True),
        (1344, 168, 1, 32, False),
        (168, 168, 7, 8, True),
    )
    for length, horizon, c, d, norm in sizes[:1] if quick else sizes:
        torch.manual_seed(seed)
        ours = TPGN(seq_len=length, pred_len=horizon, period=PERIOD, c_in=c, d_model=d, norm=norm)
        theirs = official_model(official, ours)
        ours.load_state_dict(from_official(theirs.state_dict(), ours))
        x, marks = torch.randn(BATCH, length, c), torch.rand(BATCH, length, MARKS) - 0.5
        y = torch.randn(BATCH, horizon, c)
        with torch.no_grad():
            expected = theirs(x, marks, None, None)
            difference = float((ours(x, marks) - expected).abs().max() / expected.abs().max())
        task = f"{length} to {horizon}, {c} variable{'s' if c > 1 else ''}, d {d}, norm {int(norm)}"
        row = Row(task=task, model="TPGN", metric="largest difference over largest output", value=difference)
        record.add(_lower(row))
        inputs = {"official": (x, marks, None, None), "ours": (x, marks)}
        models = {"official": theirs, "ours": ours}
        for what, make in (("forecast", _without_gradients), ("forward and backward", _with_gradients)):
            forms = {name: make(model, inputs[name], y) for name, model in models.items()}
            found = compare(forms, baseline="official", rounds=rounds)
            note = f"{1e3 * found['ours'].median_s:.2f} ms against {1e3 * found['official'].median_s:.2f} ms"
            record.add(_ratio(found["ours"], task, "TPGN", f"{what}, times the official speed", note, rounds))
    record.notes.append(
        f"official: Water2sea/TPGN@{checkout_revision(Path(place))}, models/TPGN.py; float32, batches of {BATCH}"
    )
    return record


class _States(nn.Module):
    """The states of a recurrent cell."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.cell(x)[0]
        return states


def _model(name: str, length: int, period: int = PERIOD) -> nn.Module:
    options = settings(name, pred_len=HORIZON, period=period)
    if name in ("tpgn", "lstm"):
        options["d_model"] = WIDTH
    return build(name, seq_len=length, pred_len=HORIZON, time_features=MARKS, **options)


def _training_step(model: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def run() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(*inputs), y).backward()
        optimizer.step()

    return run


def _without_gradients(model: nn.Module, inputs: tuple[Any, ...], y: Tensor | None = None) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            model(*inputs)

    return run


def _with_gradients(model: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad()
        F.mse_loss(model(*inputs), y).backward()

    return run


def _lower(row: Row, note: str = "") -> Row:
    return Row(row.task, row.model, row.metric, row.value, higher_is_better=False, note=note)


def _ratio(timing: Timing, task: str, model: str, metric: str, note: str, rounds: int) -> Row:
    quartiles = f"quartiles {timing.ratio_low:.2f} to {timing.ratio_high:.2f}"
    return Row(task=task, model=model, metric=metric, value=timing.ratio, n=rounds, note=f"{note}; {quartiles}")


BENCHMARKS: Mapping[str, Callable[..., Record]] = {
    "step": bench_step,
    "forms": bench_forms,
    "gradient": bench_gradient,
    "official": bench_official,
}
