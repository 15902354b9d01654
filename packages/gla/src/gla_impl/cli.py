"""The command `gla-impl`; torch is imported only inside the commands."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from gla_impl.config import Gate, GLAConfig, Variant
from shared_impl.cli import Options, UserError, bad_input, run

if TYPE_CHECKING:
    from gla_impl.model import GLAForCausalLM
    from gla_impl.text import Vocabulary
    from shared_impl.results import Record

__all__ = ["main"]

ModelName = Literal[
    "gla", "gla-scalar", "gla-fixed", "gla-outer", "linear-attention", "transformer++", "retnet", "mamba"
]


@dataclass(frozen=True, kw_only=True)
class Demo(Options):
    """What a gate is good for: GLA, no gate, and a Transformer of equal size learn the English of Python's own help,
    128 characters at a time, and then read sixteen times as far.

    Under a minute on two cores; draws the loss by place in the sequence.
    """

    steps: int = 150
    """training steps of each model"""

    def run(self) -> "Record":
        """Train three small models on the same text and compare them inside and beyond the length trained at."""
        import torch

        from gla_impl.comparison import comparison_config
        from gla_impl.experiments import position_bins
        from gla_impl.lm import LMRecipe, loss_by_position, train_lm
        from gla_impl.model import GLAForCausalLM, state_bytes
        from gla_impl.text import python_docs_corpus
        from shared_impl.results import Record, Row, plot_curves, rich_table

        _at_least("--steps", self.steps, 10)
        trained_at, read_to = 128, 2048
        recipe = LMRecipe(
            steps=self.steps, batch_size=8, seq_len=trained_at, lr=5e-3, eval_every=self.steps, max_eval_tokens=4096
        )
        corpus = python_docs_corpus()
        like = GLAConfig(vocab_size=len(corpus.vocabulary), d_model=64, n_layers=2, n_heads=2)
        device, console, out = self.torch_device(), self.console(), self.out_dir("gla")
        record = Record.start(
            "gla-impl", "demo", preset="demo", seeds=[self.seed], kind="demo",
            config={"model": asdict(like), "recipe": asdict(recipe)},
        )  # fmt: skip
        curves = {}
        bins = position_bins(read_to)
        for name in ("gla", "linear-attention", "transformer++"):
            self.seed_everything()
            model = GLAForCausalLM(comparison_config(name, like)).to(device)
            console.print(f"training {name} ...")
            result = train_lm(model, corpus, recipe, seed=self.seed)
            loss = loss_by_position(model, corpus.valid, length=read_to, max_tokens=8 * read_to)
            with torch.no_grad():
                text = torch.from_numpy(corpus.valid[:read_to].copy())[None].to(device)
                memory = state_bytes(model.backbone(text)[1])
            means = [float(loss[low:high].mean()) for low, high in bins]
            curves[name] = ([float(high) for _, high in bins], means)
            shown = {
                f"loss at places {trained_at // 2}-{trained_at}": float(loss[trained_at // 2 : trained_at].mean()),
                f"loss at places {read_to // 2}-{read_to}": float(loss[read_to // 2 :].mean()),
                f"kilobytes of state after {read_to}": memory / 1024,
            }
            for metric, value in shown.items():
                record.add(
                    Row(
                        task="Python's help, characters",
                        model=name,
                        metric=metric,
                        value=value,
                        higher_is_better=False,
                        note=f"trained {result.seconds:.0f} s at length {trained_at}",
                    )
                )
        plot = plot_curves(
            out / "demo.png",
            curves,
            xlabel="place in the sequence (end of the bin)",
            ylabel="held-out loss (nats)",
            title=f"trained at {trained_at}, read to {read_to}",
            logx=True,
        )
        record.plots.append(plot.name)
        path = record.save(out)
        console.print(rich_table(record))
        console.print(f"\nplot: {plot}\nrecord: {path}", highlight=False)
        return record


@dataclass(frozen=True, kw_only=True)
class TrainLM(Options):
    """Train a language model on a text file and save it with its vocabulary."""

    text: Positional[str]
    """a text file, or tinyshakespeare, or wikitext2"""
    level: Literal["char", "byte", "word"] = "char"
    """what a token is"""
    model: ModelName = "gla"
    """gla, or a baseline with as many parameters"""
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    variant: Variant = "fla"
    """of the gla layer: fla (RMSNorm with weights) or paper (the authors' first code)"""
    seq_len: int = 256
    """tokens of a segment"""
    segments: int = 1
    """segments a sequence: the state is carried from one to the next, the gradient is not"""
    steps: int = 1000
    batch_size: int = 16
    lr: float = 3e-3
    weight_decay: float = 0.01
    precision: Literal["no", "bf16", "fp16"] = "no"
    """mixed precision"""
    valid_fraction: float = 0.1
    """how much of the end of the file is held out"""
    restart: bool = False
    """start anew; without it a run that --out holds goes on"""

    def run(self) -> "Record":
        """Train, keep the best evaluation, save."""
        from gla_impl.comparison import comparison_config
        from gla_impl.lm import LMRecipe, evaluate_loss, train_lm
        from gla_impl.model import GLAForCausalLM
        from gla_impl.text import file_corpus, tiny_shakespeare_corpus, wikitext2_corpus
        from shared_impl.results import Record, Row, rich_table
        from shared_impl.train import ConfigError, count_parameters

        for option in ("d_model", "n_layers", "n_heads", "seq_len", "segments", "steps", "batch_size"):
            _at_least(f"--{option.replace('_', '-')}", getattr(self, option), 1)
        if not 0 < self.valid_fraction < 1:
            raise UserError(f"--valid-fraction must be between 0 and 1, got {self.valid_fraction}")
        if self.lr <= 0:
            raise UserError(f"--lr must be positive, got {self.lr}")
        device, console = self.torch_device(), self.console()
        if self.text == "tinyshakespeare":
            corpus = tiny_shakespeare_corpus()
        elif self.text == "wikitext2":
            corpus = wikitext2_corpus()
        else:
            corpus = file_corpus(Path(self.text), level=self.level, valid_fraction=self.valid_fraction)
        recipe = LMRecipe(
            steps=self.steps,
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            segments=self.segments,
            lr=self.lr,
            weight_decay=self.weight_decay,
        )
        self.seed_everything()
        like = GLAConfig(
            vocab_size=len(corpus.vocabulary),
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            variant=self.variant,
        )
        with bad_input():
            model = GLAForCausalLM(comparison_config(self.model, like)).to(device)
        needed = recipe.segments * recipe.seq_len + 1
        if len(corpus.train) < needed:
            raise UserError(f"{self.text}: {len(corpus.train)} tokens to train on, but a sequence needs {needed}")
        out = self.out_dir("gla")
        record = Record.start(
            "gla-impl", f"train-{self.model.replace('+', 'p')}", preset="custom", seeds=[self.seed], kind="train",
            config={"model": asdict(model.config), "recipe": asdict(recipe)},
        )  # fmt: skip
        console.print(
            f"{self.model}: {count_parameters(model):,} parameters; {corpus.name}: {len(corpus.train):,} tokens to "
            f"train on, {len(corpus.valid):,} held out, vocabulary {len(corpus.vocabulary):,}"
        )
        try:
            result = train_lm(
                model,
                corpus,
                recipe,
                seed=self.seed,
                mixed_precision=self.precision,
                out_dir=out / "checkpoints",
                console=console,
                resume=not self.restart,
            )
        except ConfigError as error:
            raise UserError(str(error)) from error
        model.save_pretrained(out / "model")
        corpus.vocabulary.save(out / "model" / "vocabulary.json")
        judged = evaluate_loss(model, corpus.valid, seq_len=self.seq_len, batch_size=self.batch_size)
        for metric, value in judged.items():
            record.add(
                Row(
                    task=corpus.name,
                    model=self.model,
                    metric=f"held-out {metric}",
                    value=value,
                    higher_is_better=False,
                    note=f"{result.steps} steps, {result.seconds:.0f} s",
                )
            )
        record.save(out)
        console.print(rich_table(record))
        console.print(f"model: {out / 'model'}", highlight=False)
        return record


@dataclass(frozen=True, kw_only=True)
class Generate(Options):
    """Continue a text with a model that train-lm saved; time and memory a token do not grow."""

    model: Positional[Path]
    """folder of the model"""
    prompt: str = "\n"
    max_new_tokens: int = 300
    temperature: float = 0.8
    """0 takes the most probable token"""
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def run(self) -> Mapping[str, Any]:
        """Print token after token as they come."""
        import torch

        model, vocabulary = _load(self.model)
        device, console = self.torch_device(), self.console()
        if not self.prompt:
            raise UserError("--prompt must not be empty")
        if vocabulary.level == "word" and not self.prompt.split():
            prompt_ids = vocabulary.encode("\n")
        else:
            prompt_ids = vocabulary.encode(self.prompt)
            if vocabulary.level == "word" and not self.prompt.endswith("\n"):
                # the end of the line is not part of what was typed
                prompt_ids = prompt_ids[:-1]
        ids = torch.from_numpy(prompt_ids.copy())[None].to(device)
        stream = model.to(device).stream(
            ids,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            generator=torch.Generator(device).manual_seed(self.seed),
        )
        new: list[int] = []
        shown = ""
        console.print(self.prompt, end="", markup=False, highlight=False, soft_wrap=True)
        try:
            with bad_input():
                for token in stream:
                    new.append(int(token))
                    # a character of several bytes appears when its last byte does
                    text = vocabulary.decode(new)
                    if not text.endswith("�"):
                        console.print(text[len(shown) :], end="", markup=False, highlight=False, soft_wrap=True)
                        shown = text
        except UserError as error:
            raise UserError(f"--{str(error).replace('_', '-', 2)}") from error
        console.print()
        return {"prompt": self.prompt, "text": vocabulary.decode(new), "tokens": len(new)}


@dataclass(frozen=True, kw_only=True)
class MQAR(Options):
    """Train a model on multi-query associative recall and tell how many queries it answers."""

    model: ModelName = "gla"
    vocab_size: int = 8192
    """the original's"""
    seq_len: int = 64
    """the original has 64, 128, 256, 512"""
    pairs: int = 4
    """the original has 4, 8, 16, 64"""
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 2
    gate: Gate | None = None
    """another gate than the model's own"""
    n_train: int = 100_000
    n_test: int = 3000
    steps: int = 2000
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.1
    random_filler: bool = False
    """fill with random tokens instead of token 0"""

    def run(self) -> "Record":
        """One model, one learning rate."""
        from gla_impl.comparison import comparison_config
        from gla_impl.experiments import MQARTable, train_mqar
        from gla_impl.mqar import mqar_data
        from shared_impl.results import Record, Row, rich_table

        for option in ("d_model", "n_layers", "n_heads", "n_train", "n_test", "steps", "batch_size"):
            _at_least(f"--{option.replace('_', '-')}", getattr(self, option), 1)
        if self.lr <= 0:
            raise UserError(f"--lr must be positive, got {self.lr}")
        device, console = self.torch_device(), self.console()
        table = MQARTable(
            models=(self.model,),
            vocab_size=self.vocab_size,
            tasks=((self.seq_len, (self.pairs,)),),
            widths=(self.d_model,),
            lrs=(self.lr,),
            n_train=self.n_train,
            n_test=self.n_test,
            steps=self.steps,
            batch_size={self.seq_len: self.batch_size},
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            weight_decay=self.weight_decay,
            random_filler=self.random_filler,
        )
        with bad_input():
            mqar_data(1, vocab_size=self.vocab_size, seq_len=self.seq_len, n_pairs=self.pairs)
            config = comparison_config(
                self.model,
                GLAConfig(
                    vocab_size=self.vocab_size,
                    d_model=self.d_model,
                    n_layers=self.n_layers,
                    n_heads=self.n_heads,
                    ffn_width=0,
                ),
            )
            if self.gate is not None:
                config = replace(config, gate=self.gate)
        record = Record.start(
            "gla-impl", "train-mqar", preset="custom", seeds=[self.seed], kind="train",
            config={"table": asdict(table), "model": asdict(config)},
        )  # fmt: skip
        _, result, accuracy = train_mqar(
            config, table, table.tasks[0], lr=self.lr, seed=self.seed, device=device, console=console
        )
        record.add(
            Row(
                task=f"MQAR V={self.vocab_size}, length {self.seq_len}, {self.pairs} pairs, d={self.d_model}",
                model=self.model if self.gate is None else f"{self.model} ({self.gate})",
                metric="accuracy",
                value=accuracy,
                note=f"{result.steps} steps, {result.seconds:.0f} s",
            )
        )
        record.save(self.out_dir("gla"))
        console.print(rich_table(record))
        return record


@dataclass(frozen=True, kw_only=True)
class LengthExtrapolation(Options):
    """Loss by place in the sequence, far beyond the length that models were trained at; draws it."""

    models: Positional[tuple[Path, ...]]
    """folders of models that train-lm saved"""
    text: str = "tinyshakespeare"
    """a text file (its end is read), or tinyshakespeare, or wikitext2"""
    max_length: int = 4096
    valid_fraction: float = 0.1
    """how much of the end of the file is read"""

    def run(self) -> "Record":
        """Read the held-out text in sequences of max_length."""
        from gla_impl.experiments import position_bins
        from gla_impl.lm import loss_by_position
        from gla_impl.text import file_corpus, tiny_shakespeare_corpus, wikitext2_corpus
        from shared_impl.results import Record, Row, plot_curves, rich_table

        _at_least("--max-length", self.max_length, 64)
        if not self.models:
            raise UserError("give at least one folder of a model")
        if not 0 < self.valid_fraction < 1:
            raise UserError(f"--valid-fraction must be between 0 and 1, got {self.valid_fraction}")
        loaded = {path: _load(path) for path in self.models}
        device, console, out = self.torch_device(), self.console(), self.out_dir("gla")
        record = Record.start("gla-impl", "length-extrapolation", preset="custom", seeds=[self.seed], kind="train")
        curves = {}
        for path, (model, vocabulary) in loaded.items():
            if self.text == "tinyshakespeare":
                corpus = tiny_shakespeare_corpus()
            elif self.text == "wikitext2":
                corpus = wikitext2_corpus()
            else:
                corpus = file_corpus(Path(self.text), level=vocabulary.level, valid_fraction=self.valid_fraction)
            # number the held-out tokens as this model does
            ids = vocabulary.encode(corpus.vocabulary.decode(corpus.valid))
            with bad_input():
                loss = loss_by_position(model.to(device), ids, length=self.max_length)
            bins = position_bins(self.max_length)
            means = [float(loss[low:high].mean()) for low, high in bins]
            label = path.parent.name if path.name == "model" else path.name
            while label in curves:
                label += "'"
            curves[label] = ([float(high) for _, high in bins], means)
            for (low, high), mean in zip(bins, means, strict=True):
                record.add(
                    Row(
                        task=corpus.name,
                        model=label,
                        metric=f"loss at places {low}-{high}",
                        value=mean,
                        higher_is_better=False,
                    )
                )
        plot = plot_curves(
            out / "length-extrapolation.png",
            curves,
            xlabel="place in the sequence (end of the bin)",
            ylabel="held-out loss (nats)",
            logx=True,
        )
        record.plots.append(plot.name)
        record.save(out)
        console.print(rich_table(record))
        console.print(f"plot: {plot}", highlight=False)
        return record


@dataclass(frozen=True, kw_only=True)
class Reproduce(Options):
    """Run one of the paper's comparisons and write its record and plot."""

    experiment: Positional[Literal["mqar", "shakespeare", "wikitext2", "length"]] = "mqar"
    preset: Literal["cpu", "paper"] = "cpu"
    """cpu: reduced, minutes on two cores; paper: the original's scale, for a GPU"""
    work: Path = Path("runs/gla/work")
    """folder of the checkpoints: an interrupted run goes on, what is trained is not trained again"""
    train_file: Path | None = None
    """wikitext2: the training split, which is not among the registered files"""

    def run(self) -> "Record":
        """Train what the table asks for and judge it."""
        from gla_impl.experiments import reproduce
        from shared_impl.results import rich_table

        console, out = self.console(), self.out_dir("gla")
        record = reproduce(
            self.experiment,
            self.preset,
            out_dir=out,
            work_dir=self.work,
            seed=self.seed,
            device=self.torch_device(),
            console=console,
            train_file=self.train_file,
        )
        console.print(rich_table(record))
        console.print(f"record and plot: {out}", highlight=False)
        return record


@dataclass(frozen=True, kw_only=True)
class Bench(Options):
    """Time the chunked form against the slow ones, decoding against the length read, and peers where installed."""

    what: Positional[Literal["ops", "decode", "fla"]] = "ops"
    """ops: the forms of the operator, time and memory; decode: a token after up to 16k others; fla: against
    flash-linear-attention's forms, if it is installed"""
    quick: bool = False
    """short sequences only"""

    def run(self) -> "Record":
        """Measure; see `gla_impl.benchmarks`."""
        from gla_impl import benchmarks
        from shared_impl.results import rich_table

        device, console, out = self.torch_device(), self.console(), self.out_dir("gla")
        self.seed_everything()
        record: Record = benchmarks.run(self.what, device=device, quick=self.quick, seed=self.seed)
        record.save(out)
        console.print(rich_table(record))
        return record


def _load(path: Path) -> "tuple[GLAForCausalLM, Vocabulary]":
    """A model that train-lm saved, and its vocabulary."""
    from safetensors import SafetensorError

    from gla_impl.model import GLAForCausalLM
    from gla_impl.text import Vocabulary

    for name in ("config.json", "model.safetensors", "vocabulary.json"):
        if not (path / name).is_file():
            raise UserError(f"{path} is no folder of a model that train-lm saved: it has no {name}")
    try:
        model = GLAForCausalLM.from_pretrained(path)
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be loaded: {error}") from error
    return model, Vocabulary.load(path / "vocabulary.json")


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{option} must be at least {least}, got {value}")


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    return run(
        "gla_impl",
        {
            "demo": Demo,
            "train-lm": TrainLM,
            "generate": Generate,
            "mqar": MQAR,
            "length-extrapolation": LengthExtrapolation,
            "reproduce": Reproduce,
            "bench": Bench,
        },
        argv,
    )
