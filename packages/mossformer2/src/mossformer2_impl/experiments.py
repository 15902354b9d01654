"""The paper's tables, declared: separation of spoken digits and generated talkers by models of equal size, what the
recurrent module is worth, one mixture learned by heart, and the paper's own sets from a folder."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from torch import Tensor

from shared_impl.experiments import Context, Experiment, ExperimentRefused, Metric, Plot, Run, Table, grid

from .baselines import DPRNN, ConvTasNet, SepFormer, ideal_ratio_mask, mixture_as_estimate
from .data import Listed, read_folders, read_librimix, read_listed, spoken_digits, talkers
from .mixing import MixtureDataset
from .model import MossFormer2
from .training import evaluate, train

__all__ = ["EXPERIMENTS", "IRM", "build", "held_out"]

FOLDER = "MOSSFORMER2_DATA_DIR"
"""environment variable: a folder with wsj0-2mix, wsj0-3mix, Libri2Mix, wham, whamr"""
SETS = {
    "WSJ0-2mix": "wsj0-2mix",
    "WSJ0-3mix": "wsj0-3mix",
    "Libri2Mix": "Libri2Mix",
    "WHAM!": "wham",
    "WHAMR!": "whamr",
}
TASNET: Mapping[str, Any] = {"n_filters": 64, "channels": 64, "hidden": 128, "blocks": 3, "repeats": 2}
"""of the size of MossFormer2's preset tiny"""


class Oracle:
    """A function of mixture and sources that `evaluate` gives both."""

    oracle = True

    def __call__(self, mixture: Tensor, sources: Tensor) -> Tensor:
        return ideal_ratio_mask(mixture, sources)


IRM = Oracle()


def build(model: str, options: Mapping[str, Any], *, n_src: int = 2, sample_rate: int = 8000) -> Any:
    """A model by the name of a column."""
    size = options.get("size", "tiny")
    base = {"n_src": n_src, "sample_rate": sample_rate, "dropout": options.get("dropout", 0.1)}
    ablations: dict[str, dict[str, Any]] = {
        "MossFormer2": {}, "no recurrence": {"recurrent": "none"}, "plain FSMN": {"recurrent": "fsmn"},
        "no gates": {"recurrent": "dfsmn"}, "no dilation": {"recurrent": "gfsmn-plain"},
        "BLSTM": {"recurrent": "blstm"},
        "paired groups": {"grouping": "paired"}, "MossFormer": {"recurrent": "none"},
        "MossFormer2, mapping": {"mask": False},
    }  # fmt: skip
    if model in ablations:
        return MossFormer2.preset(size, **base, **ablations[model])
    rest = {"n_src": n_src, "sample_rate": sample_rate}
    if model == "ConvTasNet":
        return ConvTasNet(**rest, **(TASNET if size == "tiny" else {}))
    if model == "DPRNN":
        return DPRNN(**rest, layers=1 if size == "tiny" else 6)
    if model == "SepFormer":
        full = {"n_filters": 256, "channels": 256, "heads": 8, "inner": 1024, "depth": 8, "layers": 2, "chunk": 250}
        return SepFormer(**rest, **({} if size == "tiny" else full))  # type: ignore[arg-type]
    raise ExperimentRefused(f"there is no model {model!r}")


def held_out(
    speakers: Mapping[str, Sequence[ndarray]], n: int, *, seconds: float, seed: int = 10_000
) -> list[tuple[ndarray, ndarray]]:
    """`n` mixtures that stay the same."""
    data = MixtureDataset(speakers, n, seconds=seconds, seed=seed)
    return [(item["mixture"].numpy(), item["sources"].numpy()) for item in map(data.__getitem__, range(n))]


@lru_cache(maxsize=3)
def speakers(name: str) -> tuple[dict[str, list[ndarray]], dict[str, list[ndarray]], dict[str, list[ndarray]]]:
    """Recordings to learn from, to choose weights by, and to test with."""
    if name == "talkers":
        return talkers(80, seed=0), talkers(20, seed=1), talkers(20, seed=2)
    by = {"digits, other recordings": "recording", "digits, other speakers": "speaker"}[name]
    whole, tested = spoken_digits("train", by=by), spoken_digits("test", by=by)  # type: ignore[arg-type]
    kept, chosen = {}, {}
    for speaker, own in whole.items():
        # every fifth recording of each speaker chooses the weights
        chosen[speaker] = own[::5]
        kept[speaker] = [wave for i, wave in enumerate(own) if i % 5]
    return kept, chosen, tested


def drawn(run: Run, context: Context) -> dict[str, float]:
    """Mixtures drawn while training; SI-SDRi and SDRi on mixtures of the tested recordings."""
    options = dict(run.options)
    learn, choose, tested = speakers(run.data)
    items = held_out(tested, options["test"], seconds=2.0)
    if run.model == "ideal ratio mask":
        return evaluate(IRM, items, with_sdr=True)
    if run.model == "mixture":
        return evaluate(mixture_as_estimate, items, with_sdr=True)
    torch.manual_seed(run.seed)
    model = build(run.model, options).to(context.device)
    data = MixtureDataset(learn, seconds=options["seconds"], seed=run.seed, speed=options.get("speed"))
    result = train(
        model, data, held_out(choose, options["choose"], seconds=2.0, seed=20_000), steps=options["steps"],
        batch=options["batch"], lr=options["lr"], eval_every=options["eval_every"], anneal=True, seed=run.seed,
        out_dir=context.folder, console=context.console,
    )  # fmt: skip
    return {
        **evaluate(model, items, with_sdr=options.get("sdr", True), device=context.device),
        "parameters": float(sum(p.numel() for p in model.parameters())), "train_seconds": result.seconds,
    }  # fmt: skip


def by_heart(run: Run, context: Context) -> dict[str, float]:
    """One mixture, the same at every step: SI-SDR improvement on it."""
    options = run.options
    name = "talkers" if run.data == "talkers" else "digits, other recordings"
    item = held_out(speakers(name)[0], 1, seconds=1.0, seed=run.seed)
    torch.manual_seed(run.seed)
    model = build(run.model, options).to(context.device)
    train(model, item, steps=options["steps"], batch=1, crop_s=1.0, lr=options["lr"], seed=run.seed, anneal=True)
    return evaluate(model, item, device=context.device)


# The paper's sets ----------------------------------------------------------------------------------------------------


def listed(name: str, part: str) -> list[Listed]:
    """Files of a set of the paper: LibriMix's metadata where there is some, else folders mix, s1, s2."""
    place = os.environ.get(FOLDER)
    if place is None:
        raise ExperimentRefused(f"{name} is read from the folder that {FOLDER} names")
    folder = Path(place) / SETS[name]
    table = sorted((folder / "metadata").glob(f"mixture_{part}*_mix_clean.csv")) if folder.is_dir() else []
    if table:
        return read_librimix(table[0], folder)
    return read_folders(folder / {"train": "tr", "dev": "cv", "test": "tt"}[part])


def paper_sets(run: Run, context: Context) -> dict[str, float]:
    """The full recipe: 120 epochs of crops of two seconds, the rate halved where validation stalls."""
    options = dict(run.options)
    torch.manual_seed(run.seed)
    if run.data == "made":  # the smoke preset: the same path with generated mixtures
        parts = [held_out(talkers(3), 3, seconds=0.5, seed=i) for i in range(3)]
    else:
        parts = [read_listed(listed(run.data, part), 8000) for part in ("train", "dev", "test")]
    model = build(run.model, options, n_src=len(parts[0][0][1])).to(context.device)
    epoch = max(1, len(parts[0]) // options["batch"])
    train(
        model, parts[0], parts[1], steps=options["epochs"] * epoch, batch=options["batch"], crop_s=2.0, lr=1.5e-4,
        clip=10.0, eval_every=epoch, halve_after=5, stop_after=10, seed=777 + run.seed, out_dir=context.folder,
        console=context.console,
    )  # fmt: skip
    return evaluate(model, parts[2], with_sdr=True, device=context.device)


PAPER = {
    "MossFormer2": (24.1, 22.2, 21.7, 18.1, None), "MossFormer2, mapping": (None, None, None, None, 17.0),
    "MossFormer": (22.8, 21.2, None, 17.3, 16.3), "SepFormer": (22.3, 19.5, 19.2, 16.4, 14.0),
    "ConvTasNet": (15.3, 12.7, 14.7, 12.7, 8.3),
}  # fmt: skip
DATA = ("digits, other recordings", "digits, other speakers", "talkers")
SHORT = {
    "steps": 480, "batch": 1, "seconds": 1.0, "lr": 2e-3, "eval_every": 120, "choose": 10, "test": 40, "dropout": 0.0,
}  # fmt: skip
LONG = {
    "steps": 20_000, "batch": 4, "seconds": 2.0, "lr": 1e-3, "eval_every": 500, "choose": 100, "test": 300,
    "size": "small", "speed": [0.95, 1.05],
}  # fmt: skip
SMOKE = {"steps": 1, "batch": 1, "seconds": 0.25, "lr": 1e-3, "eval_every": 1, "choose": 1, "test": 1, "sdr": False}
DB = Metric("si_sdri", "SI-SDRi dB")
ABLATIONS = ("MossFormer2", "no dilation", "no gates", "plain FSMN", "BLSTM", "no recurrence", "paired groups")

EXPERIMENTS: Mapping[str, Experiment] = {
    "speakers": Experiment(
        name="speakers",
        title="Two speakers at once, models of equal size",
        runs={
            "cpu": [
                *grid(data=DATA, model=["MossFormer2", "ConvTasNet", "no recurrence"], seeds=3, options=SHORT),
                *grid(data=DATA, model=["ideal ratio mask"], options={"test": 40}),
            ],
            "paper": [
                *grid(data=DATA, model=["MossFormer2", "ConvTasNet", "no recurrence"], seeds=3, options=LONG),
                *grid(data=DATA, model=["ideal ratio mask"], options={"test": 300}),
            ],
            "smoke": grid(data=["talkers"], model=["MossFormer2", "ConvTasNet"], options=SMOKE),
        },
        execute=drawn,
        table=Table((DB, Metric("sdri", "SDRi dB"))),
        plots=(Plot(metric="si_sdri"),),
        notes=("preset cpu: size tiny, 480 steps of a mixture of one second, Adam 0.002 falling by a half cosine",),
    ),
    "ablations": Experiment(
        name="ablations",
        title="What stands in the place of the recurrent module",
        runs={
            "cpu": grid(data=["digits, other recordings"], model=ABLATIONS,
                        options={**SHORT, "steps": 320, "eval_every": 80}),
            "paper": grid(data=DATA, model=ABLATIONS, seeds=3, options=LONG),
            "smoke": grid(data=["talkers"], model=ABLATIONS, options=SMOKE),
        },
        execute=drawn,
        table=Table(DB),
        plots=(Plot(),),
    ),
    "heart": Experiment(
        name="heart",
        title="One mixture learned by heart in 200 steps",
        runs={
            "cpu": grid(data=["talkers", "digits"], model=["MossFormer2"], seeds=3,
                        options={"steps": 200, "lr": 3e-3, "dropout": 0.0}),
            "paper": grid(data=["talkers", "digits"], model=["MossFormer2"], seeds=3,
                          options={"steps": 200, "lr": 1e-3, "size": "small"}),
            "smoke": grid(data=["talkers"], model=["MossFormer2"], options={"steps": 1, "lr": 1e-3}),
        },
        execute=by_heart,
        table=Table(DB),
        plots=(Plot(),),
    ),
    "table2": Experiment(
        name="table2",
        title="The paper's sets",
        runs={
            "paper": [
                *grid(data=list(SETS)[:4], model=["MossFormer2", "MossFormer", "SepFormer", "ConvTasNet"],
                      options={"size": "base", "epochs": 120, "batch": 4}),
                *grid(data=["WHAMR!"], model=["MossFormer2, mapping"],
                      options={"size": "base", "epochs": 120, "batch": 4}),
            ],
            # generated mixtures take the same path; no numbers of the paper
            "cpu": grid(data=["made"], model=["MossFormer2"], options={"epochs": 20, "batch": 1}),
            "smoke": grid(data=["made"], model=["MossFormer2", "MossFormer2, mapping"],
                          options={"epochs": 1, "batch": 1}),
        },
        execute=paper_sets,
        table=Table(
            DB,
            paper={(row, model): value for model, values in PAPER.items()
                   for row, value in zip(SETS, values, strict=True) if value is not None},
        ),
        notes=("the paper's numbers as far as known: MossFormer on WSJ0-2mix and 3mix from its abstract, the others "
               "from memory",),
    ),
}  # fmt: skip
