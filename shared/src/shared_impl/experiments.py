"""A table of a paper, declared: which runs, what one run does, where the paper's numbers stand. The rest is done here.

    def execute(run: Run, context: Context) -> dict[str, float]:
        model = build(run.model, **run.options)
        ...
        return {"accuracy": accuracy}

    TABLE1 = Experiment(
        name="table1",
        title="Accuracy on the digits",
        runs={"cpu": grid(data=["digits"], model=["ours", "lstm"], seeds=3), "smoke": grid(..., options={"steps": 2})},
        execute=execute,
        table=Table(Metric("accuracy", scale=100, label="accuracy %"), paper={("digits", "ours"): 99.1}),
    )
    EXPERIMENTS = {"table1": TABLE1}

The settings of a run are its identity: what is finished is kept under `work` and never run again, whoever asks. The
record is written after every run; a kill loses at most the run under way, and what a run keeps in `context.folder`
(checkpoints of `shared_impl.train.fit`) lets it go on from there.
"""

import importlib
import itertools
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shared_impl.results import (
    Record,
    Row,
    plot_lines,
    plot_table,
    processor,
    settings_key,
    summarise,
    versions,
    write_atomically,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Context",
    "Experiment",
    "ExperimentError",
    "ExperimentRefused",
    "Finished",
    "Metric",
    "Plot",
    "Run",
    "Table",
    "grid",
    "reproduce",
]


class ExperimentRefused(ValueError):
    """What was asked for cannot be: a setting that is none, a number out of range, an engine that does not answer."""


class ExperimentError(RuntimeError):
    """One or more runs of an experiment failed, or there is nothing to record."""


@dataclass(frozen=True)
class Run:
    """Plain settings of one run: all that its numbers depend on, and so its identity."""

    data: str
    model: str
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """further settings, values that JSON has"""

    @property
    def settings(self) -> dict[str, Any]:
        """As a dictionary, ready for JSON."""
        return {"data": self.data, "model": self.model, "seed": self.seed, "options": dict(self.options)}

    @property
    def label(self) -> str:
        """For people: data, model, options, seed."""
        options = [f"{key}={value}" for key, value in self.options.items()]
        return " ".join([self.data, self.model, *options, f"seed {self.seed}"])

    def __hash__(self) -> int:
        return hash(settings_key(self.settings))


@dataclass(frozen=True)
class Context:
    """What a run is given beside its settings; none of it may change its numbers."""

    device: str = "cpu"
    """where tensors live: a torch device's name"""
    folder: Path | None = None
    """the run's own folder for checkpoints, made when needed; removed when the run is done"""
    console: "Console | None" = None
    """where progress goes"""


@dataclass(frozen=True)
class Metric:
    """A number of a run that the table shows."""

    key: str
    """name in what `execute` returns"""
    label: str = ""
    """for people (default: the key)"""
    higher_is_better: bool = True
    scale: float = 1.0
    """what it is multiplied by in the table (100 for percent)"""

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.label or self.key


@dataclass(frozen=True)
class Table:
    """How runs become a table: a cell is the mean over the runs of equal row and column."""

    metrics: Metric | Sequence[Metric]
    row: Callable[[Run], str] = lambda run: run.data
    column: Callable[[Run], str] = lambda run: run.model
    paper: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    """(row, column) or, with several metrics, (row, column, metric's key) to the paper's number, in the table's unit"""
    official: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    """likewise, measured with the authors' code"""

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """The metrics, also when there is one."""
        return (self.metrics,) if isinstance(self.metrics, Metric) else tuple(self.metrics)

    def published(
        self, numbers: Mapping[tuple[str, ...], float], row: str, column: str, metric: Metric
    ) -> float | None:
        """The number of a cell, if there is one."""
        return numbers.get((row, column, metric.key), numbers.get((row, column)) if self._single else None)

    @property
    def _single(self) -> bool:
        return len(self.all_metrics) == 1


@dataclass(frozen=True)
class Plot:
    """A picture of a table: a point a cell (`kind="scores"`), or a curve a column over a number (`kind="curves"`)."""

    kind: Literal["scores", "curves"] = "scores"
    metric: str | None = None
    """key of the metric (default: the first)"""
    x: Callable[[Run], float] | None = None
    """of a curve: where a run stands, e.g. `lambda run: run.options["length"]`"""
    xlabel: str = ""
    logx: bool = False
    logy: bool = False
    only: Callable[[Run], bool] = lambda run: True
    """the runs that are drawn"""
    name: str = ""
    """what the file's name has in addition, where there are several plots"""


@dataclass(frozen=True)
class Finished:
    """A run that is done."""

    run: Run
    metrics: Mapping[str, Any]
    seconds: float
    made: Mapping[str, Any]
    """when, where and with what: started, processor, threads, versions, commit"""


@dataclass(frozen=True)
class Experiment:
    """One table of a paper."""

    name: str
    title: str
    runs: Mapping[str, Sequence[Run] | Callable[[], Sequence[Run]]]
    """preset (`cpu`, `paper`, `smoke`) to the runs, in the order of running"""
    execute: Callable[[Run, Context], Mapping[str, Any]]
    """one run: build, train, measure; returns numbers by name (and anything else that JSON has)"""
    table: Table
    plots: Sequence[Plot] | Callable[[Sequence[Finished], Path], Iterable[Path]] = (Plot(),)
    """pictures; or a function of what is finished and a path without ending, which draws and returns the files"""
    notes: Sequence[str] | Callable[[Sequence[Finished]], Sequence[str]] = ()
    """what a reader of the table has to know"""
    seeds_last: bool = True
    """run one seed of everything before the next, so that what is interrupted is even"""

    def planned(self, preset: str) -> list[Run]:
        """The runs of a preset.

        Raises:
            ExperimentRefused: if there is no such preset.
        ValueError: if two runs are the same.
        """
        if preset not in self.runs:
            raise ExperimentRefused(f"preset must be one of {', '.join(self.runs)}, got {preset!r}")
        listed = self.runs[preset]
        runs = list(listed() if callable(listed) else listed)
        keys = [settings_key(run.settings) for run in runs]
        if len(set(keys)) != len(keys):
            twice = next(run for run, key in zip(runs, keys, strict=True) if keys.count(key) > 1)
            raise ValueError(f"experiment {self.name}, preset {preset}: {twice.label} is planned twice")
        if self.seeds_last:
            runs.sort(key=lambda run: run.seed)
        return runs


def grid(
    *,
    data: Iterable[str],
    model: Iterable[str],
    seeds: int | Iterable[int] = 1,
    options: Mapping[str, Any] | Iterable[Mapping[str, Any]] = (),
) -> list[Run]:
    """Every combination of data, options, model and seed.

    Args:
        seeds: how many, from 0 on, or which.
        options: of all runs, or several sets of options to combine with the rest.
    """
    sets = [options] if isinstance(options, Mapping) else list(options) or [{}]
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    return [Run(d, m, s, dict(o)) for s, d, o, m in itertools.product(numbers, data, sets, list(model))]


def reproduce(
    package: str,
    experiment: Experiment,
    *,
    preset: str = "cpu",
    out_dir: Path,
    work: Path,
    first_seed: int = 0,
    seeds: int | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
    device: str = "cpu",
    jobs: int = 1,
    cluster: str | None = None,
    minutes: float | None = None,
    finished_only: bool = False,
    console: "Console | None" = None,
) -> Record:
    """Run what is not finished and write the record after each run.

    Args:
        package: import name; with `jobs` or `cluster` it must have the experiment in `experiments.EXPERIMENTS`.
        out_dir: where the record and plots go.
        work: where finished runs are kept and those under way keep their checkpoints.
        first_seed: added to the seeds of all runs.
        seeds: so many seeds of each setting, instead of the preset's.
        only: settings to the values that count: `{"model": ["ncn"]}`; an option goes by its name.
        jobs: processes of this machine, which share the threads.
        cluster: `dask://HOST:PORT`, `ray` or `ray://HOST:PORT`: an engine that is running already.
        minutes: start no run after so many.
        finished_only: run nothing, record what is finished.

    Raises:
        ExperimentRefused: a wrong argument; no run left by `only`.
        ExperimentError: runs failed (the others are recorded), or nothing is finished.
    """
    if jobs < 1:
        raise ExperimentRefused(f"jobs must be at least 1, got {jobs}")
    if minutes is not None and not minutes >= 0:
        raise ExperimentRefused(f"minutes must not be negative, got {minutes}")
    runs = _chosen(experiment.planned(preset), only or {}, first_seed, seeds)
    keep = _Keep(work, experiment.name)
    done: dict[Run, Finished] = {run: found for run in runs if (found := keep.read(run)) is not None}
    missing = [run for run in runs if run not in done]
    record = Record.start(package, experiment.name, preset=preset, seeds=sorted({run.seed for run in runs}))
    record.title = experiment.title
    report = _Report(experiment, runs, record, out_dir)
    if finished_only:
        if not done:
            raise ExperimentRefused(f"no run of {experiment.name} (preset {preset}) is finished in {work}")
        missing = []
    say = _Progress(console, len(runs), len(done), max(jobs, 1))
    failures: list[str] = []
    begun = time.monotonic()

    def late() -> bool:
        return minutes is not None and time.monotonic() - begun >= 60 * minutes

    try:
        if done:
            report.write(done)
        for run, outcome in _outcomes(package, experiment, missing, keep, device, jobs, cluster, console, late):
            if isinstance(outcome, Finished):
                done[run] = outcome
                report.write(done)
                say.done(outcome, experiment.table)
            else:
                failures.append(f"{run.label}: {outcome}")
                say.failed(run, outcome)
    finally:
        if done:
            report.draw(done)
    if failures:
        kept = f"; the other {len(done)} are recorded" if done else ""
        raise ExperimentError(f"{len(failures)} of {len(runs)} runs failed{kept}: {failures[0]}")
    if not done:
        raise ExperimentError(f"no run of {experiment.name} was started: the time was over before the first")
    return record


def _chosen(runs: Sequence[Run], only: Mapping[str, Sequence[str]], first: int, seeds: int | None) -> list[Run]:
    known = {"data", "model", "seed", *itertools.chain.from_iterable(run.options for run in runs)}
    for key in only:
        if key not in known:
            raise ExperimentRefused(f"only: {key!r} is no setting here; settings are {', '.join(sorted(known))}")
    for key, wanted in only.items():
        values = dict.fromkeys(str(_setting(run, key)) for run in runs)
        for value in wanted:
            if value not in values:
                raise ExperimentRefused(f"only: {key}={value} is not among {', '.join(values)}")
    kept = [run for run in runs if all(str(_setting(run, key)) in values for key, values in only.items())]
    if not kept:
        raise ExperimentRefused(
            f"only: no run of this preset has {', '.join(f'{k}={v}' for k, v in only.items())} together"
        )
    if seeds is not None:
        if seeds < 1:
            raise ExperimentRefused(f"seeds must be at least 1, got {seeds}")
        alike = dict.fromkeys(replace(run, seed=0) for run in kept)
        kept = [replace(run, seed=seed) for seed in range(seeds) for run in alike]
    return [replace(run, seed=run.seed + first) for run in kept]


def _setting(run: Run, key: str) -> Any:
    return getattr(run, key) if key in ("data", "model", "seed") else run.options.get(key)


# One run --------------------------------------------------------------------------------------------------------------


class _Keep:
    """Finished runs as files: one each, named for its settings."""

    def __init__(self, work: Path, name: str) -> None:
        self.folder = Path(work) / name

    def path(self, run: Run) -> Path:
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{run.data}-{run.model}-seed{run.seed}")
        return self.folder / f"{plain[:80]}-{settings_key(run.settings)}.json"

    def read(self, run: Run) -> Finished | None:
        try:
            kept = json.loads(self.path(run).read_text(encoding="utf-8"))
            return Finished(run, dict(kept["metrics"]), float(kept["seconds"]), dict(kept["made"]))
        except (OSError, ValueError, KeyError, TypeError):
            # what is not there, or was cut off, is run again
            return None

    def write(self, finished: Finished) -> None:
        kept = {"settings": finished.run.settings, "metrics": finished.metrics, "seconds": finished.seconds}
        write_atomically(self.path(finished.run), json.dumps({**kept, "made": finished.made}, indent=2) + "\n")

    def checkpoints(self, run: Run) -> Path:
        return self.path(run).with_suffix(".under-way")

    def clear(self, run: Run) -> None:
        import shutil

        shutil.rmtree(self.checkpoints(run), ignore_errors=True)


def _execute(package: str, experiment: Experiment, run: Run, context: Context) -> Finished:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begun = time.perf_counter()
    metrics = _json_values(experiment.execute(run, context), run)
    seconds = round(time.perf_counter() - begun, 2)
    for metric in experiment.table.all_metrics:
        if metric.key in metrics and not _finite(metrics[metric.key]):
            raise ExperimentError(f"{metric.key} is {metrics[metric.key]}")
    made = {
        "started": started,
        "processor": processor(),
        "threads": _threads(),
        "python": platform.python_version(),
        "versions": versions(package.replace("_", "-")),
        "commit": _commit(package),
    }
    return Finished(run, metrics, seconds, made)


def _json_values(metrics: Mapping[str, Any], run: Run) -> dict[str, Any]:
    if not isinstance(metrics, Mapping):
        raise TypeError(f"execute must return a mapping of names to numbers, got {type(metrics).__name__}")
    plain = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in metrics.items()}
    try:
        json.dumps(plain)
    except TypeError as error:
        raise TypeError(f"execute returned what JSON has not: {error}") from error
    return plain


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and value == value and abs(value) != float("inf")


def _execute_by_name(package: str, name: str, run: Run, context: Context, threads: int) -> Finished | str:
    """In another process: the experiment is found there by its name, so nothing of it has to be sent."""
    _limit_threads(threads)
    try:
        experiment = importlib.import_module(f"{package}.experiments").EXPERIMENTS[name]
        return _execute(package, experiment, run, context)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _limit_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _outcomes(
    package: str,
    experiment: Experiment,
    runs: Sequence[Run],
    keep: _Keep,
    device: str,
    jobs: int,
    cluster: str | None,
    console: "Console | None",
    late: Callable[[], bool],
) -> Iterator[tuple[Run, Finished | str]]:
    """Each run with what came of it, in the order of finishing."""
    if not runs:
        return
    if jobs == 1 and cluster is None:
        for run in runs:
            if late():
                return
            try:
                outcome: Finished | str = _execute(
                    package, experiment, run, Context(device, keep.checkpoints(run), console)
                )
            except Exception as error:
                if os.environ.get("IMPL_DEBUG"):
                    raise
                outcome = f"{type(error).__name__}: {error}"
            if isinstance(outcome, Finished):
                keep.write(outcome)
                keep.clear(run)
            yield run, outcome
        return
    for run, outcome in _parallel(package, experiment, runs, keep, device, jobs, cluster, late):
        if isinstance(outcome, Finished):
            keep.write(outcome)
            keep.clear(run)
        yield run, outcome


def _parallel(
    package: str,
    experiment: Experiment,
    runs: Sequence[Run],
    keep: _Keep,
    device: str,
    jobs: int,
    cluster: str | None,
    late: Callable[[], bool],
) -> Iterator[tuple[Run, Finished | str]]:
    from joblib import Parallel, delayed, parallel_config

    threads = max(1, (os.cpu_count() or 1) // jobs) if cluster is None else 1

    def tasks() -> Iterator[Any]:
        for run in runs:
            if late():
                return
            # the folder of checkpoints is this machine's; a cluster's workers may not see it
            folder = keep.checkpoints(run) if cluster is None else None
            yield delayed(_numbered)(package, experiment.name, run, Context(device, folder), threads)

    with _engine(cluster, jobs, parallel_config):
        workers = jobs if cluster is None else -1
        parallel = Parallel(n_jobs=workers, pre_dispatch="n_jobs", batch_size=1, return_as="generator_unordered")
        yield from parallel(tasks())


def _numbered(package: str, name: str, run: Run, context: Context, threads: int) -> tuple[Run, Finished | str]:
    return run, _execute_by_name(package, name, run, context, threads)


def _engine(cluster: str | None, jobs: int, parallel_config: Any) -> Any:
    """joblib's backend for a cluster.

    Raises:
        ExperimentRefused: an address that is none, or an engine that is not installed.
    """
    if cluster is None:
        return parallel_config(backend="loky", n_jobs=jobs)
    scheme, _, address = cluster.partition("://")
    try:
        if scheme == "dask" and address:
            from distributed import Client

            client = Client(f"tcp://{address}", timeout=20)
            return parallel_config(backend="dask", client=client)
        if scheme == "ray":
            import ray
            from ray.util.joblib import register_ray

            ray.init(address=f"ray://{address}" if address else "auto")
            register_ray()
            return parallel_config(backend="ray")
    except ImportError as error:
        raise ExperimentRefused(f"cluster {cluster} needs the extra shared-impl[cluster]: {error}") from error
    except (OSError, ConnectionError, TimeoutError) as error:
        raise ExperimentRefused(f"cluster {cluster} does not answer: {error}") from error
    raise ExperimentRefused(f"cluster must be dask://HOST:PORT, ray or ray://HOST:PORT, got {cluster!r}")


def _threads() -> int:
    import sys

    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else (os.cpu_count() or 1)


def _commit(package: str) -> str:
    """The commit of the package's source in seven digits, "" where it is no checkout."""
    try:
        module = importlib.import_module(package)
        folder = Path(str(module.__file__)).parent
        command = ["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except (OSError, ImportError):
        return ""


# The record -----------------------------------------------------------------------------------------------------------


class _Report:
    def __init__(self, experiment: Experiment, runs: Sequence[Run], record: Record, out_dir: Path) -> None:
        self.experiment, self.runs, self.record, self.out_dir = experiment, runs, record, Path(out_dir)

    def write(self, done: Mapping[Run, Finished]) -> None:
        record, table = self.record, self.experiment.table
        finished = [done[run] for run in self.runs if run in done]
        cells: dict[tuple[str, str], list[Finished]] = {}
        for one in finished:
            cells.setdefault((table.row(one.run), table.column(one.run)), []).append(one)
        order = list(dict.fromkeys(table.row(run) for run in self.runs))
        record.rows = []
        for row, column in sorted(cells, key=lambda cell: order.index(cell[0])):
            for metric in table.all_metrics:
                values = [
                    metric.scale * float(one.metrics[metric.key])
                    for one in cells[row, column]
                    if one.metrics.get(metric.key) is not None
                ]
                if not values:
                    continue
                mean, spread = summarise(values)
                record.add(
                    Row(
                        task=row,
                        model=column,
                        metric=metric.name,
                        value=mean,
                        spread=spread,
                        n=len(values),
                        paper=table.published(table.paper, row, column, metric),
                        official=table.published(table.official, row, column, metric),
                        higher_is_better=metric.higher_is_better,
                    )
                )
        record.runs = [
            {**one.run.settings, "metrics": dict(one.metrics), "seconds": one.seconds, **one.made} for one in finished
        ]
        record.seeds = sorted({one.run.seed for one in finished})
        record.processor = ", ".join(dict.fromkeys(str(one.made.get("processor")) for one in finished))
        notes = self.experiment.notes
        record.notes = list(notes(finished) if callable(notes) else notes)
        if len(finished) < len(self.runs):
            record.notes.append(f"{len(finished)} of {len(self.runs)} runs are finished; the same command goes on.")
        record.save(self.out_dir, seconds=sum(one.seconds for one in finished))

    def draw(self, done: Mapping[Run, Finished]) -> None:
        experiment, record = self.experiment, self.record
        finished = [done[run] for run in self.runs if run in done]
        stem = self.out_dir / f"{record.experiment}-{record.preset}"
        plots = experiment.plots
        drawn = plots(finished, stem) if callable(plots) else [self._picture(plot, finished, stem) for plot in plots]
        record.plots = [path.name for path in drawn if path is not None]
        record.save(self.out_dir, seconds=sum(one.seconds for one in finished))

    def _picture(self, plot: Plot, finished: Sequence[Finished], stem: Path) -> Path | None:
        table = self.experiment.table
        metric = next((m for m in table.all_metrics if m.key == (plot.metric or m.key)), None)
        if metric is None:
            raise ValueError(f"a plot of {self.experiment.name} asks for {plot.metric!r}, which is no metric")
        path = stem.with_name(f"{stem.name}{'-' if plot.name else ''}{plot.name}.png")
        chosen = [one for one in finished if plot.only(one.run) and one.metrics.get(metric.key) is not None]
        if not chosen:
            return None
        values = [
            (table.row(one.run), table.column(one.run), metric.scale * float(one.metrics[metric.key]), one)
            for one in chosen
        ]
        rows = list(dict.fromkeys(row for row, *_ in values))
        columns = list(dict.fromkeys(column for _, column, *_ in values))
        paper = {
            (row, column): number
            for row in rows
            for column in columns
            if (number := table.published(table.paper, row, column, metric)) is not None
        }
        title = self.experiment.title
        if plot.kind == "scores":
            scores: dict[tuple[str, str], list[float]] = {}
            for row, column, value, _ in values:
                scores.setdefault((row, column), []).append(value)
            return plot_table(path, scores, ylabel=metric.name, title=title, paper=paper)
        if plot.x is None:
            raise ValueError(f"a plot of curves of {self.experiment.name} needs x")
        points: dict[str, list[tuple[float, float]]] = {}
        dashed: dict[str, dict[float, float]] = {}
        for row, column, value, one in values:
            points.setdefault(column, []).append((plot.x(one.run), value))
            if (row, column) in paper:
                dashed.setdefault(column, {})[plot.x(one.run)] = paper[row, column]
        return plot_lines(
            path, points, xlabel=plot.xlabel, ylabel=metric.name, title=title, logx=plot.logx, logy=plot.logy,
            paper={column: sorted(numbers.items()) for column, numbers in dashed.items()},
        )  # fmt: skip


class _Progress:
    """A line a run, with the time left."""

    def __init__(self, console: "Console | None", total: int, done: int, jobs: int) -> None:
        self.console, self.total, self.finished, self.jobs = console, total, done, jobs
        self.seconds: list[float] = []
        if console is not None and total > 1:
            console.print(f"{done} of {total} runs are finished", highlight=False)

    def done(self, one: Finished, table: Table) -> None:
        self.finished += 1
        self.seconds.append(one.seconds)
        if self.console is None:
            return
        numbers = ", ".join(
            f"{metric.name} {metric.scale * one.metrics[metric.key]:.4g}"
            for metric in table.all_metrics
            if one.metrics.get(metric.key) is not None
        )
        left = self.total - self.finished
        remaining = sum(self.seconds) / len(self.seconds) * left / self.jobs
        rest = f"; about {_span(remaining)} left" if left else ""
        text = f"{self.finished}/{self.total} {one.run.label}: {numbers} ({_span(one.seconds)}{rest})"
        self.console.print(text, highlight=False, markup=False)

    def failed(self, run: Run, error: str) -> None:
        if self.console is not None:
            self.console.print(f"{run.label} failed: {error}", highlight=False, markup=False)


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
