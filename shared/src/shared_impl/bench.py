"""Comparing the speed and memory of forms of one computation, on machines whose clock cannot be trusted.

Times on a shared machine drift by tens of percent, so forms are timed in turn within a round and only ratios inside a
round are compared; the median over rounds is what counts.
"""

import gc
import importlib.util
import multiprocessing
import statistics
import subprocess
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from shared_impl.results import Record, Row, plot_lines

__all__ = [
    "Benchmark",
    "Case",
    "Setting",
    "Timing",
    "checkout_revision",
    "compare",
    "fitted_slope",
    "module_from_file",
    "peak_memory",
    "run_benchmark",
]


@dataclass(frozen=True)
class Timing:
    """How long a form takes, and how many times as fast as the baseline it is (with the quartiles over rounds)."""

    median_s: float
    ratio: float
    ratio_low: float
    ratio_high: float


def compare(
    forms: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    rounds: int = 7,
    min_time: float = 0.05,
) -> dict[str, Timing]:
    """Time forms interleaved; `ratio` is baseline time over own time, above 1 means faster than the baseline.

    Each form is called once to warm up, which also fixes how many calls fill `min_time` seconds; CUDA work is waited
    for. The order alternates from round to round, so that no form always runs behind the same other.

    Raises:
        ValueError: if the baseline is not among the forms or rounds is not positive.
    """
    if baseline not in forms:
        raise ValueError(f"baseline must be one of {sorted(forms)}, got {baseline!r}")
    if rounds < 1:
        raise ValueError(f"rounds must be positive, got {rounds}")
    # Timer would otherwise run with one thread whatever the program has set
    threads = torch.get_num_threads()
    timers = {name: Timer("form()", globals={"form": form}, num_threads=threads) for name, form in forms.items()}
    calls: dict[str, int] = {}
    for name, timer in timers.items():
        timer.timeit(1)
        once = timer.timeit(1).mean
        calls[name] = max(1, round(min_time / max(once, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds):
        names = list(forms) if turn % 2 == 0 else list(reversed(list(forms)))
        for name in names:
            times[name].append(timers[name].timeit(calls[name]).mean)
    timings = {}
    for name, own in times.items():
        ratios = [base / t for base, t in zip(times[baseline], own, strict=True)]
        low, high = _quartiles(ratios)
        timings[name] = Timing(statistics.median(own), statistics.median(ratios), low, high)
    return timings


@dataclass(frozen=True)
class Case:
    """Forms of one computation, timed against each other; a line of the table."""

    label: str
    """what is computed, at which size"""
    forms: Mapping[str, Callable[[], object]]
    """name to a function without arguments; the baseline among them"""
    baseline: str
    rounds: int = 7
    size: float | None = None
    """the size that grows from case to case, if the benchmark draws curves"""
    memory: bool = False
    """measure each form's peak memory too (on the CPU in a forked child, without gradients' threads)"""


@dataclass(frozen=True)
class Setting:
    """How a benchmark is run."""

    quick: bool = False
    """small sizes and few rounds, to see that it runs"""
    seed: int = 0
    device: str = "cpu"


CasesOf = Callable[[Setting], "Generator[Case | Row | str, Any, None] | Iterable[Case | Row | str]"]


@dataclass(frozen=True)
class Benchmark:
    """What is timed against what."""

    title: str
    cases: CasesOf
    """yields cases; rows that were measured otherwise (parity, counts); notes as text, such as which peer is absent.
    A generator gets the timings of a case back: `found = yield Case(...)`, {form: Timing}, for slopes and the like."""
    xlabel: str = ""
    """what `Case.size` counts; given, milliseconds are drawn over it"""


def run_benchmark(package: str, name: str, benchmark: Benchmark, setting: Setting, out_dir: Path) -> Record:
    """Time all cases, write the record and, if sizes grow, the plot; ratios in the rows, seconds in `config`."""
    torch.manual_seed(setting.seed)
    preset = "quick" if setting.quick else "cpu" if torch.device(setting.device).type == "cpu" else "gpu"
    record = Record.start(package, name, preset=preset, seeds=[setting.seed], kind="bench")
    record.title = benchmark.title
    seconds: dict[str, dict[str, Any]] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    cases: Any = iter(benchmark.cases(setting))
    answer: Any = None
    while True:
        try:
            item = cases.send(answer) if hasattr(cases, "send") else next(cases)
        except StopIteration:
            break
        answer = None
        if isinstance(item, str):
            record.notes.append(item)
        elif isinstance(item, Row):
            record.add(item)
        else:
            rounds = min(item.rounds, 2) if setting.quick else item.rounds
            answer = compare(item.forms, baseline=item.baseline, rounds=rounds)
            seconds[item.label] = {
                form: {"median_s": t.median_s, "ratio_quartiles": [t.ratio_low, t.ratio_high]}
                for form, t in answer.items()
            }
            for form, timing in answer.items():
                if item.size is not None:
                    curves.setdefault(form, []).append((item.size, 1e3 * timing.median_s))
                if form != item.baseline:
                    metric = f"times as fast as {item.baseline}"
                    note = f"quartiles {timing.ratio_low:.2f} to {timing.ratio_high:.2f}"
                    record.add(Row(item.label, form, metric, timing.ratio, n=rounds, note=note))
            if item.memory:
                for form, call in item.forms.items():
                    peak = peak_memory(call, device=setting.device) / 2**20
                    seconds[item.label][form]["peak_MiB"] = peak
                    record.add(Row(item.label, form, "peak MiB", peak, higher_is_better=False))
    record.config["timings"] = seconds
    if curves and benchmark.xlabel:
        path = Path(out_dir) / f"bench_{name}.png"
        plot_lines(
            path, curves, xlabel=benchmark.xlabel, ylabel="milliseconds", title=benchmark.title, logx=True, logy=True
        )
        record.plots.append(path.name)
    record.save(out_dir)
    return record


def fitted_slope(sizes: Iterable[float], seconds: Iterable[float]) -> float:
    """The exponent of growth: slope of the least-squares line through (log size, log seconds).

    Raises:
        ValueError: if there are fewer than two sizes.
    """
    x = torch.tensor(list(sizes), dtype=torch.float64).log()
    y = torch.tensor(list(seconds), dtype=torch.float64).log()
    if len(x) < 2:
        raise ValueError(f"sizes must be at least 2, got {len(x)}")
    x = x - x.mean()
    return float((x @ (y - y.mean())) / (x @ x))


def peak_memory(form: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """Bytes that calling `form` needs at its peak above what was in use before.

    On CUDA the allocator's count. On the CPU the resident set's high-water mark of a forked child, so that what the
    parent did before does not show; needs a platform with fork.

    Raises:
        RuntimeError: if the child fails; the message carries its error.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        form()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(form, sender))
    child.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = RuntimeError("the measuring process died (out of memory?)")
    child.join()
    if isinstance(answer, RuntimeError):
        raise answer
    return int(answer)


def _measure(form: Callable[[], object], sender: Connection) -> None:
    try:
        # OpenMP's thread pool does not survive a fork
        torch.set_num_threads(1)
        gc.collect()
        # 5 sets the high-water mark back to what is resident now
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
        before = _status("VmHWM")
        form()
        sender.send(_status("VmHWM") - before)
    except BaseException as error:
        sender.send(RuntimeError(f"{type(error).__name__}: {error}"))
    finally:
        sender.close()


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def module_from_file(path: Path, name: str) -> Any:
    """A Python file of somebody else's checkout, imported under a name, without a place in `sys.modules`.

    Raises:
        ImportError: if it needs a library that is not there.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout_revision(folder: Path) -> str:
    """The commit of a checkout in seven digits, or "unknown" where git has no answer."""
    try:
        command = ["git", "-C", str(folder), "rev-parse", "--short=7", "HEAD"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return run.stdout.strip() or "unknown"
