"""Runs for the tests of `shared_impl.train`, in real processes.

`python train_recipes.py all OUT` starts and kills several and trains with two, all forked from one that has imported
torch; `torchrun --nproc-per-node 2 train_recipes.py pair OUT` does the latter from the command line.
"""

import json
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from shared_impl import checkpoint
from shared_impl.train import TrainConfig, cosine_with_warmup, fit


def numbers(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def network(inputs: int, outputs: int, dropout: float = 0.2, norm: bool = True) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        middle = nn.BatchNorm1d(16) if norm else nn.Identity()
        return nn.Sequential(nn.Linear(inputs, 16), middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, outputs))


class Jittered:
    """A map-style data set with random augmentation."""

    def __init__(self, n: int) -> None:
        self.x = numbers(n, 4)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.1 * random.gauss(0.0, 1.0) + 0.1 * float(np.random.standard_normal())  # noqa: NPY002
        x = self.x[index]
        return x + noise + 0.1 * torch.randn(4), x.sum()[None]


def recipe(kind: str) -> tuple[nn.Module, Any, Any, dict[str, Any]]:
    """(model, loss_fn, train_data, keywords of fit), the same each time."""
    if (
        kind == "tensors"
    ):  # shuffling, dropout, a schedule, accumulation, clipping; an epoch of 7 steps, the last one short
        model = network(6, 3)
        x = numbers(100, 6)
        y = x[:, :3].argmax(1)
        config = TrainConfig(
            steps=40, batch_size=16, eval_every=9, log_every=4, checkpoint_every=10, grad_clip=0.5, grad_accumulation=2
        )
        return (
            model,
            lambda m, batch: cross_entropy(m(batch[0]), batch[1]),
            (x, y),
            {
                "optimizer": torch.optim.AdamW(model.parameters(), 1e-2),
                "scheduler": partial(cosine_with_warmup, warmup_steps=5),
                "evaluate": lambda m: {"loss": cross_entropy(m(x), y)},
                "config": config,
            },
        )
    if kind == "stream":  # random numbers in the stream, in the loss and in the evaluation; a plateau scheduler
        model = network(4, 1)

        def draw(generator: torch.Generator) -> dict[str, torch.Tensor]:
            x = torch.randn(8, 4, generator=generator)
            return {"x": x, "y": x.sum(1, keepdim=True)}

        def loss(m: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
            error = mse_loss(m(batch["x"]), batch["y"] + 0.1 * torch.randn(8, 1))
            return error * (1.0 + 0.1 * random.random()), {"noise": float(np.random.rand()), "error": error}  # noqa: NPY002

        optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
        config = TrainConfig(steps=40, eval_every=3, checkpoint_every=10, monitor="error")
        return (
            model,
            loss,
            draw,
            {
                "optimizer": optimizer,
                "scheduler": ReduceLROnPlateau(optimizer, patience=1, factor=0.7),
                "evaluate": lambda m: {"error": float(m(torch.randn(32, 4)).abs().mean()) + random.random()},
                "config": config,
            },
        )
    if (
        kind == "dataset"
    ):  # a DataLoader, augmentation from the global generators, a scheduler with a counter in its state
        model = network(4, 1)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2, amsgrad=True)
        return (
            model,
            lambda m, batch: mse_loss(m(batch[0]), batch[1]),
            Jittered(50),
            {
                "optimizer": optimizer,
                "scheduler": MultiStepLR(optimizer, [8, 8, 25], gamma=0.5),
                "config": TrainConfig(epochs=5, batch_size=6, checkpoint_every=10, log_every=3),
            },
        )
    if kind in (
        "pair",
        "pair with dropout",
    ):  # 91 examples: parts of 7 and 8, and a last batch of one for two processes
        model = network(6, 3, dropout=0.3 if "dropout" in kind else 0.0, norm=False)
        x = numbers(91, 6)
        y = x[:, :3].argmax(1)
        return (
            model,
            lambda m, batch: cross_entropy(m(batch[0]), batch[1]),
            (x, y),
            {
                "optimizer": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
                "evaluate": lambda m: {"loss": cross_entropy(m(x), y)},
                "config": TrainConfig(epochs=4, batch_size=30, grad_accumulation=2, grad_clip=1.0, log_every=1),
            },
        )
    raise ValueError(kind)


def run(kind: str, out_dir: Path | None, at: int = 0, number: int = 0) -> Any:
    """Train by a recipe; in the loss of step `at` this process sends itself the signal `number`."""
    model, loss_fn, data, keywords = recipe(kind)
    # In a dictionary, which is no part of what the loss is: the run that goes on has no signal to send.
    plan = {"calls": 0, "at": at, "number": number}

    def loss_then_signal(m: nn.Module, batch: Any) -> Any:
        plan["calls"] += 1
        if plan["calls"] == plan["at"]:
            os.kill(os.getpid(), plan["number"])
        return loss_fn(m, batch)

    return model, fit(model, loss_then_signal, data, out_dir=out_dir, **keywords)


def in_child(work: Any) -> int:
    """Exit code of a forked process that does the work; minus the signal that killed it, if one did."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except KeyboardInterrupt:
            os._exit(130)
        except SystemExit as error:
            os._exit(int(error.code or 0))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_while_writing(out_dir: Path) -> None:
    """Killed when the third checkpoint is half on disk."""
    sync, calls = checkpoint._sync, 0

    def sync_or_die(path: Path) -> None:
        nonlocal calls
        calls += ".tmp-step-00000030" in str(path)
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(path)

    checkpoint._sync = sync_or_die
    run("tensors", out_dir)


def killed(out_dir: Path) -> None:
    codes = {
        # accumulation: two calls of the loss a step, so call 53 is in step 27, between checkpoints and in mid-epoch
        "tensors": in_child(lambda: run("tensors", out_dir / "tensors", 53, signal.SIGKILL)),
        "stream": in_child(lambda: run("stream", out_dir / "stream", 27, signal.SIGKILL)),
        "dataset": in_child(lambda: run("dataset", out_dir / "dataset", 27, signal.SIGKILL)),
        "writing": in_child(lambda: kill_while_writing(out_dir / "writing")),
        "interrupted": in_child(lambda: run("tensors", out_dir / "interrupted", 53, signal.SIGINT)),
        "terminated": in_child(lambda: run("tensors", out_dir / "terminated", 53, signal.SIGTERM)),
    }
    (out_dir / "codes.json").write_text(json.dumps(codes))


def pair(out_dir: Path) -> None:
    rank = int(os.environ["RANK"])
    for kind in ("pair", "pair with dropout"):
        model, result = run(kind, None)
        if rank == 0:
            save_file(model.state_dict(), out_dir / f"{kind}.safetensors")
            (out_dir / f"{kind}.json").write_text(json.dumps(result.history))
    # Only the second process hears the signal, in the 7th step; both must save and stop after the same step.
    interrupted = False
    try:
        run("pair with dropout", out_dir / "run", 13 if rank == 1 else 0, signal.SIGINT)
    except KeyboardInterrupt:
        interrupted = True
    steps = list(checkpoint.find(out_dir / "run", "step"))
    model, result = run("pair with dropout", out_dir / "run")
    save_file(model.state_dict(), out_dir / f"resumed-{rank}.safetensors")
    (out_dir / f"resumed-{rank}.json").write_text(json.dumps([interrupted, steps, result.history]))
    torch.distributed.destroy_process_group()


def everything(out_dir: Path) -> None:
    torch.optim.SGD([torch.zeros(1)])  # imports torch's compiler, once for all children
    killed(out_dir)
    # What the command torchrun calls, but with workers that need not import everything again.
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        start_method="fork",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="pair",
        max_restarts=0,
        monitor_interval=0.05,
    )
    elastic_launch(launch, pair)(out_dir)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"all": everything, "pair": pair}[sys.argv[1]](Path(sys.argv[2]))
