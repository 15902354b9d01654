"""What the paper is about, in under a minute: a table and a plot."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.results import plot_scores

from .synthetic import MQAR
from .training import METHODS, accuracy, recall_model, train_recall

__all__ = ["demo"]


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console, steps: int = 400) -> dict[str, float]:
    """Pairs of keys and values, then four keys: which values? Read once, twice, and with a prefix; returns accuracies.

    All three carry states of one size to the questions.
    """
    table = Table("read", "right answers", "guessing", title=f"Recall of 8 pairs from a small state, {steps} steps")
    scores: dict[str, float] = {}
    for method in ("causal", "read twice", "prefix"):
        task = MQAR(pairs=8, queries=4, vocab_size=40, passes=METHODS[method][1])
        model = recall_model(method, vocab_size=task.vocab_size, d_model=32, feature_dim=4, seed=seed).to(device)
        train_recall(model, [task], steps=steps, seed=seed, console=console)
        scores[method] = accuracy(model, task)
        table.add_row(method, f"{scores[method]:.1%}", f"{1 / (task.vocab_size // 2):.1%}")
    path = plot_scores(
        out_dir / "demo.png", {name: [value] for name, value in scores.items()}, xlabel="share of right answers"
    )
    console.print(table)
    console.print(f"plot: {path}", highlight=False, soft_wrap=True)
    return scores
