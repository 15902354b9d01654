"""What is timed against what, declared."""

import warnings
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from shared_impl.bench import Benchmark, Case, Setting, fitted_slope
from shared_impl.results import Row

from .cells import ElmanCell
from .ntm import NTM, address, address_reference
from .rnn import RNN, to_torch
from .training import RTRL, SequenceNet, bptt, tbptt

__all__ = ["BENCHMARKS"]


def _square(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (y - target).square().sum() / 2


def throughput(setting: Setting) -> Iterator[Case]:
    """Forward and backward over a sequence: torch.nn.LSTM, ours by its kernel, as one operation, and as a loop."""
    for length in (10,) if setting.quick else (50, 200):
        x = torch.randn(32, length, 64).to(setting.device)
        auto = RNN(cell="lstm", input_size=64, hidden_size=128).to(setting.device)
        forms: dict[str, Any] = {"torch.nn.LSTM": to_torch(auto), "dispatched": auto}
        for name, cell, backend in (
            ("one operation", "lstm", "fused"), ("loop", "lstm", "loop"),
            ("peepholes, one operation", "lstm-peephole", "fused"), ("peepholes, loop", "lstm-peephole", "loop"),
        ):  # fmt: skip
            net = RNN(cell=cell, input_size=64, hidden_size=128, backend=backend)  # type: ignore[arg-type]
            forms[name] = net.to(setting.device)
        calls = {name: lambda net=net, x=x: net(x)[0].sum().backward() for name, net in forms.items()}
        yield Case(f"LSTM 128, batch 32, length {length}", calls, baseline="torch.nn.LSTM", size=length)


def rtrl(setting: Setting) -> Generator[Case | Row | str, Any, None]:
    """Gradients of an Elman net over 20 steps: RTRL, SnAp-1 and UORO against BPTT; numbers kept, and growth."""
    sizes = (2, 4) if setting.quick else (8, 16, 32, 64, 128)
    seconds: dict[str, list[float]] = {}
    for n in sizes:
        net = SequenceNet(ElmanCell(input_size=4, hidden_size=n), 2).to(setting.device)
        length = 3 if setting.quick else 20
        x, y = torch.randn(1, length, 4).to(setting.device), torch.randn(1, length, 2).to(setting.device)
        forms: dict[str, Any] = {"BPTT": lambda net=net, x=x, y=y: bptt(net, x, y, _square)}
        for name, mode in (("RTRL", "rtrl"), ("SnAp-1", "snap1"), ("UORO", "uoro")):
            learner = RTRL(net, mode=mode)  # type: ignore[arg-type]
            forms[name] = lambda learner=learner, x=x, y=y: learner.run(x, y, _square)
        found = yield Case(f"{n} units", forms, baseline="BPTT", size=n, rounds=5)
        for name, timing in (found or {}).items():
            seconds.setdefault(name, []).append(timing.median_s)
        kept = RTRL(net)
        kept.run(x, y, _square)
        assert kept.influence is not None
        yield Row(f"{n} units", "RTRL", "numbers kept", float(kept.influence.numel()), higher_is_better=False)
    for name, times in seconds.items():
        yield f"{name}: time grows with the power {fitted_slope(sizes[-2:], times[-2:]):.1f} over the last two sizes."


def memory(setting: Setting) -> Iterator[Case]:
    """Peak memory of BPTT and truncated BPTT by length."""
    net = SequenceNet(ElmanCell(input_size=8, hidden_size=128), 2).to(setting.device)
    for length in (20,) if setting.quick else (200, 400, 800):
        x, y = torch.randn(64, length, 8).to(setting.device), torch.randn(64, length, 2).to(setting.device)
        forms = {
            "BPTT": lambda x=x, y=y: bptt(net, x, y, _square),
            "TBPTT(20, 20)": lambda x=x, y=y: tbptt(net, x, y, _square, k1=20, k2=20),
        }
        yield Case(f"length {length}", forms, baseline="BPTT", size=length, rounds=3, memory=True)


def ntm(setting: Setting) -> Iterator[Case]:
    """A whole step of a machine, and the addressing of one head, batch 4: vectorised against the equations' loops."""
    for rows in (8,) if setting.quick else (32, 128):
        net = NTM(rows=rows).to(setting.device)
        x_t, state = torch.randn(4, 9).to(setting.device), net.initial_state(4)
        with torch.no_grad():
            state = net.recur(x_t, state)[1]
        given = {
            "memory": torch.randn(4, rows, 20), "key": torch.randn(4, 20), "beta": torch.rand(4, 1),
            "gate": torch.rand(4, 1), "shift": torch.randn(4, 3).softmax(1), "gamma": 1 + torch.rand(4, 1),
            "before": torch.randn(4, rows).softmax(1),
        }  # fmt: skip

        def step(form: Any, x_t: torch.Tensor = x_t, state: Any = state) -> Any:
            with torch.no_grad():
                return form(x_t, state)

        forms: dict[str, Any] = {
            "loops": lambda net=net, step=step: step(net.recur_reference),
            "vectorised": lambda net=net, step=step: step(net.recur),
        }
        yield Case(f"step, {rows} rows", forms, baseline="loops", size=rows, rounds=5)
        forms = {"loops": lambda g=given: address_reference(**g), "vectorised": lambda g=given: address(**g)}
        yield Case(f"addressing, {rows} rows", forms, baseline="loops", rounds=5)


def defaults(setting: Setting) -> Iterator[Row | str]:
    """The estimators as they come, on small sets: accuracy on held-out sequences beside the most frequent class."""
    from sklearn.datasets import load_digits

    from .estimators import SequenceClassifier, SequenceTagger

    rng = np.random.default_rng(setting.seed)
    steps = 2 if setting.quick else 2000

    def waves(n: int) -> tuple[list[np.ndarray], np.ndarray]:
        kinds = rng.integers(0, 2, n)
        rows = [np.sin(np.arange(rng.integers(15, 60)) * (0.3, 0.5)[k] + rng.uniform(0, 6)) for k in kinds]
        return [row + 0.3 * rng.standard_normal(len(row)) for row in rows], kinds

    def first(n: int) -> tuple[list[np.ndarray], np.ndarray]:
        rows = [rng.standard_normal((rng.integers(5, 30), 2)) for _ in range(n)]
        return rows, np.array([int(row[0, 0] > 0) for row in rows])

    X, y = load_digits(return_X_y=True)
    order = rng.permutation(len(X))[: 40 if setting.quick else 800]
    images = [X[i].reshape(8, 8) for i in order]
    suites = {"36 noisy waves": waves(36 + 400), "200 sequences, sign of the first step": first(200 + 400)}
    cuts = {"36 noisy waves": 36, "200 sequences, sign of the first step": 200}
    suites["digits row by row"], cuts["digits row by row"] = (images, y[order]), len(images) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (sequences, labels) in suites.items():
            cut = cuts[name]
            model = SequenceClassifier(max_steps=steps, random_state=setting.seed)
            model.fit(sequences[:cut], labels[:cut])
            yield from _beside(name, model.score(sequences[cut:], labels[cut:]), labels[:cut], labels[cut:])
        bits = [rng.integers(0, 2, rng.integers(5, 25)) for _ in range(60 + 200)]
        tags = [np.concatenate([[0], row[1:] ^ row[:-1]]) for row in bits]
        tagger = SequenceTagger(max_steps=steps, random_state=setting.seed)
        tagger.fit([row.astype(float) for row in bits[:60]], tags[:60])
        score = tagger.score([row.astype(float) for row in bits[60:]], tags[60:])
        yield from _beside("60 bit rows, did it change", score, np.concatenate(tags[:60]), np.concatenate(tags[60:]))
    yield "Defaults of SequenceClassifier and SequenceTagger; the test sequences take no part in training or stopping."


def _beside(name: str, score: float, trained: Any, truth: Any) -> Iterator[Row]:
    most = np.bincount(trained).argmax()
    yield Row(name, "most frequent class", "accuracy %", 100 * float((truth == most).mean()))
    yield Row(name, "ours", "accuracy %", 100 * score)


BENCHMARKS: Mapping[str, Benchmark] = {
    "throughput": Benchmark("An LSTM over a sequence, forward and backward", throughput, xlabel="length"),
    "rtrl": Benchmark("Real-time recurrent learning against BPTT", rtrl, xlabel="units"),
    "memory": Benchmark("BPTT against truncated BPTT", memory, xlabel="length"),
    "ntm": Benchmark("A neural Turing machine against the equations' loops", ntm, xlabel="rows"),
    "defaults": Benchmark("The estimators as they come", defaults),
}
