"""What the verbs `train` and `eval` do with a user's own files."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from rich.console import Console

from .data import Mixtures, read_librimix, read_listed, read_scp, read_speakers
from .mixing import MixtureDataset
from .model import MossFormer2
from .training import evaluate, train

__all__ = ["mixtures", "train_on"]

SECONDS = 2.0


def mixtures(path: Path, rate: int) -> Mixtures:
    """The mixtures of a LibriMix CSV or of an scp list."""
    return read_listed(read_librimix(path) if path.suffix == ".csv" else read_scp(path), rate)


def train_on(
    data: Path, *, size: str, n_src: int, rate: int, minutes: float, steps: int, lr: float, batch: int, seed: int,
    anew: bool, device: torch.device, out: Path, console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Train on a folder of speakers or on a list; every fifth recording or tenth mixture chooses the weights."""
    learn: Any
    chosen: Sequence[tuple[ndarray, ndarray]]
    if data.is_dir():
        speakers = read_speakers(data, rate)
        few = min(map(len, speakers.values())) < 5
        held = {name: own if few else own[::5] for name, own in speakers.items()}
        kept = speakers if few else {n: [w for i, w in enumerate(own) if i % 5] for n, own in speakers.items()}
        if few:
            warnings.warn("a speaker has fewer than five recordings: none are held out", UserWarning, stacklevel=2)
        learn = MixtureDataset(kept, n_src=n_src, seconds=SECONDS, sr=rate, speed=(0.95, 1.05), seed=seed)
        chosen_from = MixtureDataset(held, 12, n_src=n_src, seconds=SECONDS, sr=rate, seed=seed + 1)
        chosen = [(x["mixture"].numpy(), x["sources"].numpy()) for x in map(chosen_from.__getitem__, range(12))]
    else:
        items = mixtures(data, rate)
        n_src = len(items[0][1])
        if len(items) < 2:
            raise ValueError(f"{data} must list at least two mixtures, got {len(items)}")
        every = max(2, min(10, len(items)))
        chosen = items[::every][:40]
        learn = Mixtures([row for i, row in enumerate(items.rows) if i % every], rate)
    torch.manual_seed(seed)
    model = MossFormer2.preset(size, n_src=n_src, sample_rate=rate).to(device)
    result = train(
        model, learn, chosen, steps=steps, batch=batch, lr=lr, eval_every=max(1, min(100, steps // 5)), stop_after=10,
        seed=seed, max_seconds=60 * minutes, out_dir=out / "training", resume=not anew, console=console,
    )  # fmt: skip
    model.cpu().save_pretrained(out / "model")
    score = evaluate(model, chosen)
    if not score["si_sdri"] > 0:
        warnings.warn(
            f"no better than the mixture itself on held-out mixtures ({score['si_sdri']:.2f} dB): train longer",
            UserWarning, stacklevel=2,
        )  # fmt: skip
    console.print(
        f"SI-SDRi {score['si_sdri']:.2f} dB after {result.steps} steps; model: {out / 'model'}", highlight=False
    )
    return {**score, "steps": result.steps, "model": str(out / "model")}
