"""What the paper is about, in under a minute: hulls by a pointer network and by a softmax over a fixed dictionary."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from shared_impl.results import Record, Row, rich_table
from shared_impl.train import count_parameters

from .data import checked_range
from .drawing import ascii_picture, draw_answers
from .tasks import generate, get_task
from .training import Recipe, answers_of, build, evaluate, train

__all__ = ["demo"]

POINTS = (5, 10)
LABELS = {"ptr-net": "Ptr-Net", "lstm": "LSTM, fixed dictionary"}
SECONDS = {"ptr-net": 18.0, "lstm": 12.0}
"""the longest that each may train, on a machine that is slow or busy"""


def demo(
    *, seed: int, device: torch.device, out_dir: Path, console: Console, steps: int = 1400, hidden: int = 96
) -> Record:
    """Train both on hulls of 5 to 10 points; table, PNG and a picture in letters.

    Both for equally many steps, if the time allowed (`SECONDS`) suffices.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)  # with tensors this small, threads wait for each other more than they work
    task = get_task("hull")
    checked_range(POINTS, task)
    record = Record.start("ptrnet_impl", "demo", preset="demo", seeds=[seed], kind="demo")
    record.title = "Convex hulls of points in the unit square"
    console.print(
        f"Given {POINTS[0]} to {POINTS[1]} points, name the corners of their hull, counter-clockwise.\n"
        "Both networks learn from the same solved examples; at 20 points neither has seen any.",
        highlight=False,
    )
    models = {}
    for name, label in LABELS.items():
        torch.manual_seed(seed)
        model = models[name] = build(name, task, hidden=hidden, n_max=POINTS[1]).to(device)
        result = train(
            model, task, POINTS, Recipe(steps=steps, lr=1e-2, batch_size=64), seed=seed, console=console,
            max_seconds=SECONDS[name], log_every=max(1, steps // 5),
        )  # fmt: skip
        note = f"{count_parameters(model):,} parameters, {result.steps} steps, {result.seconds:.1f} s"
        for n in (5, 10, 20):
            if n > POINTS[1] and name == "lstm":
                continue  # no entries for more points in its dictionary
            found = evaluate(model, task, n, size=300)
            record.add(Row(f"{n} points", label, "same polygon %", 100 * found["accuracy"], note=note))
            area = 100 * found["area"] if np.isfinite(found["area"]) else 0.0
            record.add(Row(f"{n} points", label, "area %", area))
            invalid = 100 * found["invalid"]
            record.add(Row(f"{n} points", label, "not a simple polygon %", invalid, higher_is_better=False))
    points, targets = generate(task, POINTS[1], 4, np.random.default_rng([seed, 7]))
    answers = {label: answers_of(models[name], points, task) for name, label in LABELS.items()}
    panels = []
    for i, instance in enumerate(points):
        own = {"exact": targets[i][targets[i] >= 0], **{label: found[i] for label, found in answers.items()}}
        panels.append(("", instance, own))
    record.plots.append(draw_answers(out_dir / "demo.png", panels, task="hull").name)
    record.save(out_dir)
    console.print(ascii_picture(points[0], answers["Ptr-Net"][0], task="hull"), highlight=False)
    console.print(f"Ptr-Net: {answers['Ptr-Net'][0]}, exact: {panels[0][2]['exact'].tolist()}", highlight=False)
    console.print(rich_table(record))
    console.print(f"plot: {out_dir / 'demo.png'}", highlight=False, soft_wrap=True)
    return record
