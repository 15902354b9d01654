"""Comparing the speed and memory of forms of one computation, on machines whose clock cannot be trusted.

Times on a shared machine drift by tens of percent, so forms are timed in turn within a round and only ratios inside a
round are compared; the median over rounds is what counts.
"""

import gc
import importlib.util
import multiprocessing
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

__all__ = ["Timing", "checkout_revision", "compare", "module_from_file", "peak_memory"]


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
