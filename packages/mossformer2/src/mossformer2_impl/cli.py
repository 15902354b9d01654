"""The command line, `mossformer2-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

if TYPE_CHECKING:
    from .model import MossFormer2

__all__ = ["main"]

SLUG = "mossformer2"
EXPERIMENTS = ("speakers", "ablations", "heart", "table2")
BENCHMARKS = ("attention", "convolution", "network", "base", "official", "defaults")


@dataclass(frozen=True)
class Demo(Options):
    """Two generated talkers at once, taken apart by a network trained on the spot, beside ConvTasNet."""

    steps: int = 60

    def run(self) -> dict[str, Any]:
        from .demo import demo

        if self.steps < 1:
            raise UserError(f"--steps must be positive, got {self.steps}")
        out = self.out_dir(SLUG)
        return demo(seed=self.seed, device=self.torch_device(), out_dir=out, console=self.console(), steps=self.steps)


def _model(folder: str | None, official: Path | None, mapping: bool, device: Any) -> "MossFormer2":
    from shared_impl.data import DataError
    from shared_impl.pretrained import WeightsError

    from .model import MossFormer2
    from .official import load_official

    if (folder is None) == (official is None):
        raise UserError("give --model (a folder that train wrote) or --official (a public checkpoint), one of them")
    try:
        if official is not None:
            return load_official(official, mask=not mapping).to(device)
        return MossFormer2.from_pretrained(str(folder)).to(device)
    except (WeightsError, DataError) as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Separate(Options):
    """Write each speaker of a recording as a WAV file."""

    sound: Annotated[Positional[Path], arg(metavar="WAV")]
    """a recording of any length and rate"""
    model: str | None = None
    """a folder that `train` wrote"""
    official: Path | None = None
    """a checkpoint of the authors: a file, or a folder with encoder.ckpt, masknet.ckpt, decoder.ckpt"""
    mapping: bool = False
    """the checkpoint maps instead of masking (WHAMR!)"""
    speakers: int | None = None
    """how many are expected; an error where the model gives another number"""
    chunk_s: float | None = None
    """seconds at a time, for recordings that do not fit into memory"""
    mix_down: bool = False
    """take the mean of several channels"""

    def run(self) -> dict[str, Any]:
        import numpy as np

        from .audio import read_sound, write_sound

        wave, rate = read_sound(self.sound, mix_down=self.mix_down)
        model = _model(self.model, self.official, self.mapping, self.torch_device())
        if self.speakers not in (None, model.n_src):
            raise UserError(f"--speakers {self.speakers}: the model was trained for {model.n_src}")
        with bad_input():
            found = model.separate(wave, rate, chunk_s=self.chunk_s)
        out = self.out_dir(SLUG)
        # one factor for all, so that their loudness stays comparable
        found = found / max(1.0, float(np.abs(found).max()) / 0.9)
        paths = [out / f"{self.sound.stem}-speaker-{i + 1}.wav" for i in range(len(found))]
        for path, one in zip(paths, found, strict=True):
            write_sound(path, one, rate)
            self.console().print(str(path), highlight=False)
        return {"paths": list(map(str, paths)), "sample_rate": rate, "seconds": len(wave) / rate}


@dataclass(frozen=True, kw_only=True)
class Mix(Options):
    """Mix recordings of single speakers; writes mixture.wav and each source as it is in it."""

    sounds: Annotated[Positional[tuple[Path, ...]], arg(metavar="WAV")]
    gains_db: tuple[float, ...] = ()
    """loudness of each relative to the others; default: equal"""
    rate: int = 8000
    """samples a second"""
    mix_down: bool = False
    """take the mean of several channels"""

    def run(self) -> dict[str, Any]:
        from .audio import read_sound, write_sound
        from .mixing import mix

        if len(self.sounds) < 2:
            raise UserError(f"mix needs at least two recordings, got {len(self.sounds)}")
        with bad_input():
            waves = [read_sound(path, self.rate, mix_down=self.mix_down)[0] for path in self.sounds]
            short = min(map(len, waves))
            mixed, sources = mix([wave[:short] for wave in waves], self.gains_db or None)
        out = self.out_dir(SLUG)
        for name, wave in (("mixture", mixed), *((f"source-{i + 1}", one) for i, one in enumerate(sources))):
            write_sound(out / f"{name}.wav", wave, self.rate)
        self.console().print(f"{short / self.rate:.2f} s: {out / 'mixture.wav'}", highlight=False)
        return {"path": str(out / "mixture.wav"), "seconds": short / self.rate, "sources": len(sources)}


@dataclass(frozen=True, kw_only=True)
class Train(Options):
    """Train a separator: on a folder of speakers (a subfolder each), or on mixtures that a LibriMix CSV or an scp list
    names; writes the model into a folder."""

    data: Annotated[Positional[Path], arg(metavar="FOLDER_OR_LIST")]
    size: Literal["tiny", "small", "base"] = "tiny"
    speakers: int = 2
    """in a mixture that is drawn"""
    rate: int = 8000
    """samples a second"""
    minutes: float = 5.0
    """longest time"""
    steps: int = 2000
    lr: float = 1e-3
    batch: int = 4
    anew: bool = False
    """forget the training that is in --out; else it goes on"""

    def run(self) -> dict[str, Any]:
        from .commands import train_on

        device, out = self.torch_device(), self.out_dir(SLUG)
        for name in ("speakers", "rate", "minutes", "steps", "lr", "batch"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name} must be positive, got {getattr(self, name)}")
        with bad_input():
            return train_on(
                self.data, size=self.size, n_src=self.speakers, rate=self.rate, minutes=self.minutes, steps=self.steps,
                lr=self.lr, batch=self.batch, seed=self.seed, anew=self.anew, device=device, out=out,
                console=self.console(),
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Eval(Options):
    """SI-SDR and SDR, and their improvements, over mixtures that a LibriMix CSV or an scp list names."""

    data: Annotated[Positional[Path], arg(metavar="LIST")]
    model: str | None = None
    """a folder that `train` wrote"""
    official: Path | None = None
    """a checkpoint of the authors"""
    mapping: bool = False

    def run(self) -> dict[str, Any]:
        from .commands import mixtures
        from .training import evaluate

        device = self.torch_device()
        model = _model(self.model, self.official, self.mapping, device)
        with bad_input():
            items = mixtures(self.data, model.sample_rate)
            if items[0][1].shape[0] != model.n_src:
                raise UserError(f"{self.data} lists {len(items[0][1])} sources, the model was made for {model.n_src}")
            found = evaluate(model, items, with_sdr=True, device=device)
        self.console().print({name: round(value, 2) for name, value in found.items()})
        return {**found, "mixtures": len(items)}


COMMANDS: Mapping[str, type] = {"demo": Demo, "separate": Separate, "mix": Mix, "train": Train, "eval": Eval}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("mossformer2_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
