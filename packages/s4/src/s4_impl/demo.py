"""The demonstration: digits read pixel by pixel by S4 and by an LSTM of the same size, then one digit as a stream."""

import contextlib
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from s4_impl import data
from s4_impl.configs import Recipe
from s4_impl.experiments import matched
from s4_impl.model import S4Model
from s4_impl.training import METRICS, Trained, model_inputs, train
from shared_impl.results import Record, Row, plot_curves, rich_table

__all__ = ["demo", "kernel_curves", "stream_error"]

_S4 = Recipe(
    task="digits",
    model={"n_layers": 2, "d_model": 32, "d_state": 32, "norm": "batch", "bidirectional": False, "dropout": 0.05},
    lr=0.01, weight_decay=0.01, batch_size=32, epochs=10,
)  # fmt: skip
_LSTM = Recipe(
    task="digits", model={"n_layers": 1, "pooling": "last"}, lr=0.005, batch_size=32, epochs=10, grad_clip=1.0
)


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console, epochs: int = 10) -> Record:
    """Train both models, show accuracy and time, save the plots, and compare the stream with the whole sequence."""
    if device.type == "cpu":
        torch.set_num_threads(1)  # with tensors this small, threads wait for each other more than they work
    task = data.digits_task(seed)
    record = Record.start("s4_impl", "demo", preset="digits", seeds=[seed], kind="demo")
    console.print(
        f"1,797 handwritten digits of 8x8 pixels, read one pixel after the other: 64 steps. "
        f"{len(task.train)} to learn from, {len(task.test)} to be tested on."
    )
    trained: dict[str, Trained] = {}
    for label, kind, recipe in (("S4", "s4", _S4), ("LSTM", "lstm", _LSTM)):
        recipe = replace(recipe, epochs=epochs)
        if kind != "s4":
            width = matched(kind, task, trained["S4"].n_parameters, recipe.model)
            recipe = replace(recipe, model={**recipe.model, "d_model": width})
        with console.status(f"training {label} ...") if console.is_terminal else contextlib.nullcontext():
            trained[label] = result = train(kind, task, recipe, seed=seed, device=device)
        record.add(
            Row(
                task="digits, 64 steps", model=label, metric=METRICS["classify"].label, value=result.test["accuracy"],
                note=f"{result.n_parameters:,} parameters, trained in {result.fit.seconds:.1f} s",
            )
        )  # fmt: skip
    console.print(rich_table(record))

    plot_curves(
        out_dir / "demo-learning.png",
        {label: _epochs_and_accuracy(result) for label, result in trained.items()},
        xlabel="epoch", ylabel="validation accuracy %", title="Digits as 64 pixels in a row",
    )  # fmt: skip
    model = trained["S4"].model
    assert isinstance(model, S4Model)
    plot_curves(
        out_dir / "demo-kernels.png", kernel_curves(model, n_kernels=5, length=64),
        xlabel="steps back", ylabel="kernel", title="Five learned convolution kernels of the first layer",
    )  # fmt: skip
    record.plots += ["demo-learning.png", "demo-kernels.png"]

    pixels = model_inputs(task, torch.from_numpy(task.test.inputs[:1]).to(device))
    error, predicted, whole = stream_error(model, pixels)
    record.notes.append(f"stream against whole sequence: largest difference of the logits {error:.1e}")
    console.print(
        f"One test digit as a stream, a pixel at a time through step(): recognised as {predicted}, and as {whole} "
        f"from the whole sequence at once; the logits differ by {error:.1e} at most."
    )
    console.print(f"Plots: {out_dir / 'demo-learning.png'} and {out_dir / 'demo-kernels.png'}", soft_wrap=True)
    record.save(out_dir)
    return record


def _epochs_and_accuracy(result: Trained) -> tuple[list[float], list[float]]:
    rows = [row for row in result.fit.history if "accuracy" in row]
    return [float(row["epoch"]) for row in rows], [float(row["accuracy"]) for row in rows]


@torch.no_grad()
def kernel_curves(model: S4Model, *, n_kernels: int, length: int) -> dict[str, tuple[list[float], list[float]]]:
    """Convolution kernels of the first block, those with the most weight, ready to be plotted."""
    kernel = model.backbone.blocks[0].ssm.kernel(length)[0][0]
    strongest = kernel.norm(dim=-1).topk(min(n_kernels, len(kernel))).indices
    steps = [float(i) for i in range(length)]
    return {f"feature {int(i)}": (steps, kernel[i].cpu().tolist()) for i in strongest}


@torch.no_grad()
def stream_error(model: S4Model, inputs: torch.Tensor) -> tuple[float, int, int]:
    """Largest difference between stepping through one sequence and reading it at once; both classes."""
    model.eval()
    model.setup_step()
    state = model.default_state(1)
    logits = torch.empty(0)
    for t in range(inputs.shape[1]):
        logits, state = model.step(inputs[:, t], state)
    whole = model(inputs)
    return float((logits - whole).abs().max()), int(logits.argmax()), int(whole.argmax())
