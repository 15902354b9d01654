"""Command lines of one kind: commands as dataclasses, the same options, the same exit codes.

Exit codes: 0 done, 1 a run failed, 2 bad input (one line on stderr), 130 Ctrl-C.
Nothing here imports torch, so `--help` answers at once.
"""

import contextlib
import dis
import importlib.metadata
import importlib.resources
import io
import json
import os
import random
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    import torch
    from rich.console import Console

__all__ = ["Card", "Claim", "Options", "UserError", "bad_input", "load_card", "parse_card", "run"]


class UserError(Exception):
    """Bad input: the command line prints the message as one line on stderr and exits with 2."""


@contextlib.contextmanager
def bad_input(what: str = "") -> Iterator[None]:
    """Refusals by our own checks become bad input; faults stay faults.

    A ValueError counts as a refusal if one of our modules, or scikit-learn's validation, raises it by a `raise`
    statement. What numpy, torch or pandas say about shapes and types inside our code is our mistake, and passes.

    Args:
        what: put before the message, as an option's name.
    """
    try:
        yield
    except ValueError as error:
        if not _is_refusal(error):
            raise
        raise UserError(f"{what}: {error}" if what else str(error)) from error


def _is_refusal(error: BaseException) -> bool:
    place = error.__traceback__
    if place is None:
        return False
    while place.tb_next is not None:
        place = place.tb_next
    frame = place.tb_frame
    module = str(frame.f_globals.get("__name__", ""))
    ours = module.partition(".")[0].endswith("_impl") or module.startswith("sklearn.utils.")
    return ours and dis.opname[frame.f_code.co_code[place.tb_lasti]] == "RAISE_VARARGS"


@dataclass(frozen=True)
class Options:
    """Options that every command has; a command derives from this and defines `run`."""

    seed: int = 0
    """seed of every random number generator"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where tensors live; auto takes a GPU if there is one"""
    out: Path | None = None
    """folder for what the command writes (default: runs/<slug>)"""
    json: bool = False
    """print the result as JSON on stdout, everything else on stderr"""

    def run(self) -> object:
        """Do the work; what is returned is printed under --json."""
        raise NotImplementedError

    def torch_device(self) -> "torch.device":
        """The device asked for.

        Raises:
            UserError: if cuda is asked for and there is none.
        """
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: no CUDA device is available here; use --device cpu")
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def out_dir(self, slug: str) -> Path:
        """The output folder, created.

        Raises:
            UserError: if it cannot be created or written.
        """
        path = self.out if self.out is not None else Path("runs") / slug
        _writable(path)
        return path

    def console(self) -> "Console":
        """Where text for people goes: stdout, or stderr under --json."""
        from rich.console import Console

        return Console(stderr=self.json)

    def seed_everything(self) -> None:
        """Seed Python's, NumPy's and torch's global generators."""
        import numpy as np
        import torch

        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)  # noqa: NPY002  libraries still draw from the global one
        torch.manual_seed(self.seed)


@dataclass(frozen=True)
class Claim:
    """One statement of the paper and the evidence for it: a test node, a record, or why it was not run.

    With `status = "not confirmed"` the record or test speaks against the statement, and `reason` says how.
    """

    id: str
    text: str
    kind: Literal["exact", "behaviour", "reproduction"]
    test: str | None = None
    record: str | None = None
    status: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Card:
    """A paper and what its package gives: `[tool.impl]` of the package's pyproject.toml."""

    slug: str
    version: str
    title: str
    authors: Sequence[str]
    year: int
    venue: str
    arxiv: str
    official_code: str
    gives: str
    headline: str
    family: str = ""
    """what the catalogue groups it with"""
    claims: Sequence[Claim] = field(default_factory=list)


def parse_card(text: str) -> Card:
    """Read a card from the text of a package's pyproject.toml.

    Raises:
        ValueError: if a field is missing, unknown, or a claim has no evidence and no reason.
    """
    project = tomllib.loads(text)
    try:
        table = dict(project["tool"]["impl"])
        claims = [Claim(**claim) for claim in table.pop("claims", [])]
        card = Card(
            slug=project["project"]["name"].removesuffix("-impl"),
            version=project["project"]["version"],
            claims=claims,
            **table,
        )
    except KeyError as error:
        raise ValueError(f"the card lacks {error}") from error
    except TypeError as error:
        raise ValueError(f"the card has a missing or unknown field: {error}") from error
    ids = [claim.id for claim in claims]
    if len(set(ids)) != len(ids):
        raise ValueError(f"claim ids must differ, got {ids}")
    for claim in claims:
        if claim.kind not in ("exact", "behaviour", "reproduction"):
            raise ValueError(f"claim {claim.id}: kind must be exact, behaviour or reproduction, got {claim.kind}")
        if claim.status not in (None, "not run", "not confirmed"):
            raise ValueError(f"claim {claim.id}: status must be 'not run' or 'not confirmed', got {claim.status!r}")
        if claim.status and not claim.reason:
            raise ValueError(f"claim {claim.id}: status {claim.status!r} needs a reason")
        if claim.status != "not run" and not (claim.test or claim.record):
            raise ValueError(f"claim {claim.id} needs a test, a record, or status = 'not run' with a reason")
    return card


def load_card(package: str) -> Card:
    """The card of an installed package, given its import name (`s4_impl`).

    Raises:
        FileNotFoundError: if the package carries no card.
    """
    root = Path(str(importlib.resources.files(package)))
    # a wheel carries the file inside the package; a source checkout has it above src/
    for path in (root / "pyproject.toml", root.parent.parent / "pyproject.toml"):
        if path.is_file() and "[tool.impl]" in (text := path.read_text(encoding="utf-8")):
            return parse_card(text)
    raise FileNotFoundError(f"{package} carries no card ([tool.impl] of its pyproject.toml)")


def run(
    package: str,
    commands: Mapping[str, type],
    argv: Sequence[str] | None = None,
    *,
    experiments: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
) -> int:
    """Parse `argv`, run the command, and turn what happens into an exit code.

    Args:
        package: import name; the command is `<slug>-impl`.
        commands: verb to a dataclass that derives from `Options`; `info` is added by itself.
        argv: arguments without the program's name (default: `sys.argv[1:]`).
        experiments: names in the package's `experiments.EXPERIMENTS`: given, `reproduce` is made from them.
        benchmarks: names in the package's `benchmarks.BENCHMARKS`: given, `bench` is made from them.
    """
    slug = package.removesuffix("_impl").replace("_", "-")
    prog = f"{slug}-impl"
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"info": _info_command(package), **commands}
    if experiments:
        commands["reproduce"] = _reproduce_command(package, slug, tuple(experiments))
    if benchmarks:
        commands["bench"] = _bench_command(package, slug, tuple(benchmarks))
    _tolerant_streams()
    try:
        code = _run(prog, commands, arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # the reader (head, less) went away: not a failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _tolerant_streams() -> None:
    """Letters that a terminal's encoding lacks become question marks, not an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _writable(folder: Path) -> None:
    """Make the folder and try it, before hours of work end with nowhere to write to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot create the folder: {error.strerror}") from error
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"--out {folder}: cannot write there: {error.strerror}") from error


def _run(prog: str, commands: Mapping[str, type], arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"{prog} {importlib.metadata.version(prog)}")
        return 0
    try:
        command = _parse(prog, commands, arguments)
        if command.seed < 0:
            raise UserError(f"--seed must not be negative, got {command.seed}")
        if command.out is not None:
            _writable(command.out)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except UserError as error:
        _say(prog, str(error))
        return 2
    try:
        with _warnings_of(prog):
            result = command.run()
        if command.json and result is not None:
            print(json.dumps(_plain(result), indent=2, allow_nan=False))
    except UserError as error:
        return _fail(prog, str(error), 2)
    except FileNotFoundError as error:
        return _fail(prog, f"no such file: {error.filename}" if error.filename else str(error), 2)
    except KeyboardInterrupt:
        return _fail(prog, "interrupted", 130)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _fail(prog, f"{type(error).__name__}: {error} (IMPL_DEBUG=1 shows where)", 1)
    return 0


@contextlib.contextmanager
def _warnings_of(prog: str) -> Iterator[None]:
    """What a package warns of is a line with the command's name, without the place in the source."""
    before = warnings.formatwarning

    def plain(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        if issubclass(category, UserWarning):
            return f"{prog}: warning: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before


def _parse(prog: str, commands: Mapping[str, type], argv: list[str]) -> Any:
    """The command object; SystemExit(0) after help, UserError with one line for anything wrong."""
    from tyro.conf import OmitArgPrefixes
    from tyro.extras import subcommand_cli_from_dict

    if not argv:
        argv = ["--help"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return subcommand_cli_from_dict(dict(commands), prog=prog, args=argv, config=(OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:
            raise
    message, _, hints = _unbox(said.getvalue()).partition(" Perhaps you meant: ")
    options = [word for word in hints.split() if word.startswith("--") and word != "--help"]
    verb = f" {argv[0]}" if argv[0] in commands else ""
    if options:
        message += f"; perhaps {' or '.join(dict.fromkeys(options[:3]))}?"
    raise UserError(f"{message.rstrip('.')} (see {prog}{verb} --help)")


def _unbox(text: str) -> str:
    """The sentence inside tyro's box, on one line, without its pointer to the help."""
    # the frame is drawn in ASCII where stdout does not take UTF-8; its top line holds a title
    lines = [line.strip("│| ") for line in text.splitlines()[1:]]
    words = " ".join(line for line in lines if line.strip("─-+╰╯ "))
    return words.partition(" For full helptext")[0]


def _fail(prog: str, message: str, code: int) -> int:
    if os.environ.get("IMPL_DEBUG"):
        import traceback

        traceback.print_exc()
    _say(prog, message)
    return code


def _say(prog: str, message: str) -> None:
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)


def _plain(value: object) -> object:
    """`value` as JSON types; NaN and infinities become null, as JSON has none."""
    from dataclasses import fields, is_dataclass

    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return str(value)


def _info_command(package: str) -> type:
    @dataclass(frozen=True)
    class Info(Options):
        """Show the paper, what this package gives, and the evidence for each claim."""

        def run(self) -> Card:
            card = load_card(package)
            if not self.json:
                _print_card(card, self.console())
            return card

    return Info


def _reproduce_command(package: str, slug: str, names: tuple[str, ...]) -> type:
    from tyro.conf import Positional, arg

    choice = Literal[names]  # type: ignore[valid-type]

    @dataclass(frozen=True)
    class Reproduce(Options):
        """Run an experiment of the paper and write its record: our numbers beside the paper's. What is finished is kept
        and not run again; a run that was interrupted goes on."""

        experiment: Positional[choice] = names[0]  # type: ignore[valid-type]
        """which table"""
        preset: Literal["cpu", "paper", "smoke"] = "cpu"
        """cpu: minutes on two cores, reduced; paper: the full recipe; smoke: a few steps, to see that it runs"""
        only: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
        """only runs with these settings: model=lstm, data=cora; several of one key are alternatives"""
        seeds: int | None = None
        """so many seeds a setting instead of the preset's; --seed is the first"""
        jobs: int = 1
        """processes, which share this machine's threads"""
        cluster: str | None = None
        """an engine that is running: dask://HOST:PORT, ray, ray://HOST:PORT"""
        minutes: float | None = None
        """start no further run after so many minutes"""
        finished_only: bool = False
        """run nothing; record what is finished"""
        work: Path | None = None
        """where finished runs and checkpoints are kept (default: runs/<slug>/work)"""

        def run(self) -> object:
            import importlib

            only: dict[str, list[str]] = {}
            for pair in self.only:
                key, equals, value = pair.partition("=")
                if not (key and equals and value):
                    raise UserError(f"--only takes KEY=VALUE, got {pair!r}")
                only.setdefault(key, []).append(value)
            out, device = self.out_dir(slug), str(self.torch_device())
            console = self.console()
            from shared_impl.experiments import ExperimentRefused, reproduce
            from shared_impl.results import rich_table

            experiment = importlib.import_module(f"{package}.experiments").EXPERIMENTS[self.experiment]
            try:
                record = reproduce(
                    package,
                    experiment,
                    preset=self.preset,
                    out_dir=out,
                    work=self.work or Path("runs") / slug / "work",
                    first_seed=self.seed,
                    seeds=self.seeds,
                    only=only,
                    device=device,
                    jobs=self.jobs,
                    cluster=self.cluster,
                    minutes=self.minutes,
                    finished_only=self.finished_only,
                    console=console,
                )
            except ExperimentRefused as error:
                raise UserError(str(error)) from error
            if not self.json:
                console.print(rich_table(record))
                console.print(f"record: {out / record.file_name}", highlight=False)
            return record

    return Reproduce


def _bench_command(package: str, slug: str, names: tuple[str, ...]) -> type:
    from tyro.conf import Positional

    choice = Literal[names]  # type: ignore[valid-type]

    @dataclass(frozen=True)
    class Bench(Options):
        """Time the forms against each other, interleaved in one process, and write the record: medians of ratios."""

        benchmark: Positional[choice] = names[0]  # type: ignore[valid-type]
        """which comparison"""
        quick: bool = False
        """small sizes and few rounds, to see that it runs"""

        def run(self) -> object:
            import importlib

            out, device = self.out_dir(slug), str(self.torch_device())
            from shared_impl.bench import Setting, run_benchmark
            from shared_impl.results import rich_table

            benchmark = importlib.import_module(f"{package}.benchmarks").BENCHMARKS[self.benchmark]
            setting = Setting(self.quick, self.seed, device)
            record = run_benchmark(package, self.benchmark, benchmark, setting, out)
            if not self.json:
                console = self.console()
                console.print(rich_table(record))
                console.print(f"record: {out / record.file_name}", highlight=False)
            return record

    return Bench


def _print_card(card: Card, console: "Console") -> None:
    from rich.table import Table

    console.print(f"[bold]{card.title}[/bold]", highlight=False)
    console.print(f"{', '.join(card.authors)}. {card.venue} {card.year}. arXiv {card.arxiv}", highlight=False)
    console.print(f"official code: {card.official_code}", highlight=False)
    console.print(f"\n{card.slug}-impl {card.version}: {card.gives}", highlight=False)
    console.print(card.headline, highlight=False)
    table = Table("claim", "what", "kind", "evidence", title="Claims of the paper")
    for claim in card.claims:
        evidence = f"{claim.status}: {claim.reason}" if claim.status else claim.test or claim.record or ""
        table.add_row(claim.id, claim.text, claim.kind, evidence.rpartition("::")[2])
    console.print(table)
