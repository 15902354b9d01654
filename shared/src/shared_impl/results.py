"""The record of a run: what was run, where, how long, and our numbers beside the paper's and the baselines'."""

import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = [
    "Record",
    "Row",
    "kept_run",
    "markdown_table",
    "plot_curves",
    "plot_lines",
    "plot_scores",
    "plot_table",
    "processor",
    "rich_table",
    "settings_key",
    "summarise",
    "versions",
    "write_atomically",
]

Kind = Literal["reproduce", "bench", "train", "demo"]

_VERSIONED = ("shared-impl", "torch", "numpy", "scikit-learn", "scipy", "torch-geometric", "triton")


@dataclass(frozen=True)
class Row:
    """One number of a record.

    `value` is the mean over `n` runs, `spread` their standard deviation; `paper` and `official` are the paper's
    number and the one measured with the authors' code.
    """

    task: str
    model: str
    metric: str
    value: float
    spread: float | None = None
    n: int = 1
    paper: float | None = None
    official: float | None = None
    higher_is_better: bool = True
    note: str = ""


@dataclass
class Record:
    """A run as it happened; made with `Record.start`, filled with `add`, written with `save`."""

    package: str
    experiment: str
    preset: str
    kind: Kind
    seeds: list[int]
    command: str
    versions: dict[str, str]
    python: str
    processor: str
    threads: int
    started: str
    duration_s: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    title: str = ""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """each run that the rows sum up: its settings, metrics, seconds, processor, versions, commit"""

    def __post_init__(self) -> None:
        self._clock = time.perf_counter()

    @classmethod
    def start(
        cls,
        package: str,
        experiment: str,
        *,
        preset: str,
        seeds: Iterable[int],
        kind: Kind = "reproduce",
        config: Mapping[str, Any] | None = None,
    ) -> "Record":
        """Begin a record now: the command line, versions, processor and thread count are read from this process."""
        name = package.replace("_", "-")
        return cls(
            package=name,
            experiment=experiment,
            preset=preset,
            kind=kind,
            seeds=list(seeds),
            command=_command_line(name),
            versions=versions(name),
            python=platform.python_version(),
            processor=processor(),
            threads=_threads(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            config=dict(config or {}),
        )

    def add(self, row: Row) -> None:
        """Append one number."""
        self.rows.append(row)

    @property
    def file_name(self) -> str:
        """`bench_<experiment>.json` for a benchmark, else `<experiment>-<preset>.json`."""
        return f"{f'bench_{self.experiment}' if self.kind == 'bench' else f'{self.experiment}-{self.preset}'}.json"

    def save(self, out_dir: Path, *, seconds: float | None = None) -> Path:
        """Write the record as JSON under `out_dir` and return its path; the duration ends here, or is `seconds`.

        A benchmark is `bench_<experiment>.json`, anything else `<experiment>-<preset>.json`.

        Raises:
            ValueError: if there are no rows, or a value is not finite (a run that went wrong is no result).
        """
        if not self.rows:
            raise ValueError(f"the record of {self.experiment} has no rows")
        self.duration_s = round(time.perf_counter() - self._clock if seconds is None else seconds, 1)
        path = Path(out_dir) / self.file_name
        try:
            text = json.dumps(asdict(self), indent=2, allow_nan=False, default=str)
        except ValueError as error:
            bad = [row for row in self.rows if row.value != row.value or abs(row.value) == float("inf")]
            raise ValueError(f"the record of {self.experiment} holds values that are not finite: {bad}") from error
        write_atomically(path, text + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read a record.

        Raises:
            ValueError: if the file is not a record; the message names it.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = [Row(**row) for row in fields.pop("rows")]
            return cls(rows=rows, **fields)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a record: {error}") from error


def summarise(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for a single value).

    Raises:
        ValueError: if there are none.
    """
    if not values:
        raise ValueError("values must not be empty")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader or a crash never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def rich_table(record: Record) -> "Table":
    """The record as a table for the terminal: tasks down, models across."""
    from rich.table import Table

    head, body = _pivot([record], bold=("[bold]", "[/bold]"))
    table = Table(title=record.title or f"{record.package} {record.experiment} ({record.preset})")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for cells in body:
        table.add_row(*cells)
    return table


def markdown_table(records: Sequence[Record]) -> str:
    """The records as Markdown, tasks down and models across, and under them how each was made, and its notes.

    Records of the same models share a table. A cell is ours ± the standard deviation over runs, [the paper's number],
    {the official code's}; the best of a row is bold.
    """
    tables: list[tuple[set[str], list[Record]]] = []
    for record in records:
        models = {row.model for row in record.rows}
        if tables and tables[-1][0] == models:
            tables[-1][1].append(record)
        else:
            tables.append((models, [record]))
    lines: list[str] = []
    for _, together in tables:
        head, body = _pivot(together, bold=("**", "**"))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in head) + " |")
        lines.append("|---|" + "---:|" * (len(head) - 1))
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in body]
        lines.append("")
    rows = [row for record in records for row in record.rows]
    legend = []
    if any(row.spread is not None for row in rows):
        legend.append("± is the standard deviation over seeds")
    if any(row.paper is not None for row in rows):
        legend.append("[the paper's number]")
    if any(row.official is not None for row in rows):
        legend.append("{the official code's, measured}")
    if legend:
        lines += [f"{'; '.join(legend)}.", ""]
    for record in records:
        seeds = (
            ", ".join(map(str, record.seeds))
            if len(record.seeds) < 4
            else f"{min(record.seeds)} to {max(record.seeds)}"
        )
        lines.append(
            f"`{record.command}`: preset {record.preset}, seed{'s' if len(record.seeds) > 1 else ''} {seeds}, "
            f"{_duration(record.duration_s)} on {record.processor}, {record.threads} "
            f"thread{'s' if record.threads > 1 else ''}, torch {record.versions.get('torch', '-')}."
        )
        lines += [f"- {note}" for note in record.notes]
        lines.append("")
    return "\n".join(lines)


def settings_key(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that other settings do not share, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def kept_run(
    work: Path, name: str, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]] | None
) -> dict[str, Any] | None:
    """The result of a run from its file under `work`, or else made and written there.

    Args:
        name: what the file's name begins with; the rest of it depends on all settings.
        settings: everything that the result depends on.
        make: called if there is no such file; None: then the answer is None.
    """
    path = work / f"{name}-{settings_key(settings)}.json"
    if not path.is_file():
        if make is None:
            return None
        write_atomically(path, json.dumps({"settings": settings, "result": make()}, indent=2, default=str) + "\n")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["result"]
    return result


def plot_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    logx: bool = False,
    logy: bool = False,
) -> Path:
    """Draw labelled curves (`label -> (xs, ys)`) into a PNG and return its path.

    Raises:
        ValueError: if there are no curves, or xs and ys of one differ in length.
    """
    if not curves:
        raise ValueError("curves must not be empty")
    for label, (xs, ys) in curves.items():
        if len(xs) != len(ys):
            raise ValueError(f"curve {label!r}: {len(xs)} x values but {len(ys)} y values")
    figure, axes = _figure(4.2)
    for label, (xs, ys) in curves.items():
        axes.plot(xs, ys, label=label, marker="o" if len(xs) < 30 else None, markersize=3.5)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if logx:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    _legend_beside(axes)
    return _save(figure, path)


def plot_scores(
    path: Path,
    scores: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    title: str = "",
    paper: Mapping[str, float] | None = None,
) -> Path:
    """Draw each label's scores, one a seed, with their mean and the paper's number, into a PNG and return its path.

    Raises:
        ValueError: if there are no scores, or a label has none.
    """
    if not scores:
        raise ValueError("scores must not be empty")
    for label, values in scores.items():
        if not len(values):
            raise ValueError(f"{label!r} has no scores")
    figure, axes = _figure(1.1 + 0.32 * len(scores))
    published = {label: value for label, value in (paper or {}).items() if label in scores}
    rows = {label: row for row, label in enumerate(scores)}
    for label, values in scores.items():
        axes.plot(values, [rows[label]] * len(values), "o", color="C0", alpha=0.4, markersize=4.5)
    means = [sum(values) / len(values) for values in scores.values()]
    axes.plot(means, list(rows.values()), "|", color="C0", markersize=15, markeredgewidth=2, label="mean")
    if published:
        at = [rows[label] for label in published]
        axes.plot(list(published.values()), at, "D", color="C1", markersize=5, label="paper")
    axes.set(xlabel=xlabel, title=title, ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(list(rows.values()), list(rows))
    axes.grid(alpha=0.25)
    _legend_beside(axes)
    return _save(figure, path)


def plot_table(
    path: Path,
    scores: Mapping[tuple[str, str], Sequence[float]],
    *,
    ylabel: str,
    title: str = "",
    paper: Mapping[tuple[str, str], float] | None = None,
) -> Path:
    """Draw a table: tasks along the axis, a colour a model, a point a run, a bar the mean, the paper's number dashed.

    Args:
        scores: (task, model) to the numbers of its runs.
        paper: (task, model) to the paper's number.

    Raises:
        ValueError: if there are no scores, or a cell has none.
    """
    if not scores:
        raise ValueError("scores must not be empty")
    for cell, values in scores.items():
        if not len(values):
            raise ValueError(f"{cell!r} has no scores")
    tasks = list(dict.fromkeys(task for task, _ in scores))
    models = list(dict.fromkeys(model for _, model in scores))
    figure, axes = _figure(4.2)
    width = 0.8 / len(models)
    for i, model in enumerate(models):
        color, label = _color(i), model
        for at, task in enumerate(tasks):
            if (task, model) not in scores:
                continue
            values = scores[task, model]
            x = at + (i - (len(models) - 1) / 2) * width
            axes.plot([x] * len(values), list(values), "o", color=color, alpha=0.45, markersize=4)
            mean = sum(values) / len(values)
            axes.plot([x - 0.4 * width, x + 0.4 * width], [mean, mean], color=color, linewidth=2.2, label=label)
            label = "_"
            if (published := (paper or {}).get((task, model))) is not None:
                axes.plot([x - 0.5 * width, x + 0.5 * width], [published] * 2, "--", color=color, linewidth=1.2)
    axes.set_xticks(range(len(tasks)), tasks, rotation=20 if max(map(len, tasks)) * len(tasks) > 60 else 0)
    axes.set(ylabel=ylabel, title=title + (" (dashed: the paper)" if paper else ""), xlim=(-0.5, len(tasks) - 0.5))
    axes.grid(axis="y", alpha=0.25)
    _legend_beside(axes)
    return _save(figure, path)


def plot_lines(
    path: Path,
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    logx: bool = False,
    logy: bool = False,
    paper: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Path:
    """Draw a curve a label through the means of points of equal x, with a band of one standard deviation.

    Args:
        points: label to (x, y), in any order; several of one x are runs of other seeds.
        paper: label to the paper's numbers, dashed in the label's colour.

    Raises:
        ValueError: if there are no points, or a label has none.
    """
    if not points or not all(points.values()):
        raise ValueError("points must not be empty, nor those of any label")
    figure, axes = _figure(4.2)
    for i, (label, pairs) in enumerate(points.items()):
        at: dict[float, list[float]] = {}
        for x, y in pairs:
            at.setdefault(x, []).append(y)
        xs = sorted(at)
        means = [statistics.fmean(at[x]) for x in xs]
        axes.plot(xs, means, label=label, color=_color(i), marker="o" if len(xs) < 30 else None, markersize=3.5)
        if any(len(values) > 1 for values in at.values()):
            spread = [statistics.stdev(at[x]) if len(at[x]) > 1 else 0.0 for x in xs]
            low, high = [[m + s * d for m, d in zip(means, spread, strict=True)] for s in (-1, 1)]
            axes.fill_between(xs, low, high, color=_color(i), alpha=0.15, linewidth=0)
        if published := (paper or {}).get(label):
            axes.plot([x for x, _ in published], [y for _, y in published], "--", color=_color(i), linewidth=1.2)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title + (" (dashed: the paper)" if paper else ""))
    if logx:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    _legend_beside(axes)
    return _save(figure, path)


def _color(i: int) -> str:
    return f"C{i % 10}"


def _legend_beside(axes: "Axes") -> None:
    """The legend right of the picture: over no line."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _figure(height: float) -> "tuple[Figure, Axes]":
    # Figure without pyplot: no global state, no display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=120, layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: "Figure", path: Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _pivot(records: Sequence[Record], *, bold: tuple[str, str]) -> tuple[list[str], list[list[str]]]:
    """Head and cells: a line a task (and metric, where there are several), a column a model."""
    rows = [row for record in records for row in record.rows]
    models = list(dict.fromkeys(row.model for row in rows))
    metrics = list(dict.fromkeys(f"{row.metric} {'↑' if row.higher_is_better else '↓'}" for row in rows))
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        metric = f"{row.metric} {'↑' if row.higher_is_better else '↓'}"
        lines.setdefault((row.task, metric), {})[row.model] = row
    head = [metrics[0] if len(metrics) == 1 else "", *models]
    body = []
    for (task, metric), cells in lines.items():
        best = None
        if len(cells) > 1:
            values = [row.value for row in cells.values()]
            best = max(values) if next(iter(cells.values())).higher_is_better else min(values)
        name = task if len(metrics) == 1 else f"{task}: {metric}"
        body.append([name, *(_cell(cells.get(model), best, bold) for model in models)])
    return head, body


def _cell(row: Row | None, best: float | None, bold: tuple[str, str]) -> str:
    if row is None:
        return ""
    text = _short(row.value)
    if row.spread is not None:
        text += f" ± {_short(row.spread)}"
    if row.value == best:
        text = f"{bold[0]}{text}{bold[1]}"
    # a bracket is markup for the terminal's tables, unless a backslash stands before it
    escape = "\\" if bold[0] == "[bold]" else ""
    if row.paper is not None:
        text += f" {escape}[{_short(row.paper)}]"
    if row.official is not None:
        text += f" {{{_short(row.official)}}}"
    return text


def _short(value: float | None) -> str:
    if value is None:
        return ""
    size = abs(value)
    if size >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    if 0 < size < 0.001:
        return f"{value:.1e}"
    return f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _command_line(name: str) -> str:
    program = Path(sys.argv[0]).name if sys.argv else ""
    if program in ("__main__.py", "-c", "", "-m") or program.endswith(".py"):
        program = name
    # the folder that a run wrote to belongs to one machine, not to the record
    words = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    return " ".join([program, *words])


def versions(name: str) -> dict[str, str]:
    """Versions of a distribution and of what its numbers may depend on."""
    found = {}
    for distribution in (name, *_VERSIONED):
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The GPU if there is one in use, else the processor with its number of cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cores = os.cpu_count() or 1
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model} ({cores} cores)"


def _threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else (os.cpu_count() or 1)
