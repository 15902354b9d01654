"""The survey's statements as experiments: long lags, a grammar, time's structure, memory, speech, text, translation."""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_impl.datasets import tiny_shakespeare
from shared_impl.experiments import Context, Experiment, Metric, Plot, Run, Table, grid

from .data import Recordings, concatenated, spoken_digits
from .decoding import ctc_beam, ctc_greedy
from .estimators import SequenceClassifier
from .language import CharLM
from .losses import ctc_loss
from .metrics import error_rate
from .ngrams import NGram
from .ntm import NTM
from .rnn import RNN
from .seq2seq import Seq2Seq
from .tasks import (
    DATE_SYMBOLS,
    REBER,
    adding,
    copy_memory,
    dates,
    embedded_reber,
    encode,
    ntm_copy,
    reber_legal,
    temporal_xor,
)
from .training import make_optimizer

__all__ = ["EXPERIMENTS", "build", "train"]


def train(networks: list[nn.Module], loss: Callable[[], Tensor], steps: int, lr: float, *, decay: bool = False) -> None:
    """Adam with the gradient's norm clipped at 1; `decay` lets the learning rate fall to a tenth."""
    parameters = [p for network in networks for p in network.parameters()]
    optimizer = make_optimizer("adam", parameters, lr=lr)
    for step in range(steps):
        if decay:
            optimizer.param_groups[0]["lr"] = lr * (1 - 0.9 * step / steps)
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def build(run: Run, context: Context, inputs: int, outputs: int) -> tuple[RNN, nn.Linear, torch.Generator]:
    """Network, readout and generator of a run. "elman, logistic" is Elman's own: sigma, uniform initial weights."""
    torch.manual_seed(run.seed)
    n = run.options["hidden"]
    logistic = run.model == "elman, logistic"
    name = "elman-sigmoid" if logistic else run.model
    net = RNN(cell=name, input_size=inputs, hidden_size=n, init="uniform" if logistic else "orthogonal")
    return net.to(context.device), nn.Linear(n, outputs).to(context.device), torch.Generator().manual_seed(run.seed)


def run_adding(run: Run, context: Context) -> dict[str, float]:
    """The adding problem: mean squared error on fresh sequences; the mean answer has 1/6."""
    net, head, generator = build(run, context, 2, 1)

    def error(batch: int) -> Tensor:
        x, y = adding(batch, run.options["length"], generator)
        h, _ = net(x.to(context.device))
        return F.mse_loss(head(h[:, -1])[:, 0], y.to(context.device))

    train([net, head], lambda: error(32), run.options["steps"], 5e-3)
    with torch.no_grad():
        return {"mse": float(error(2000))}


def run_copying(run: Run, context: Context) -> dict[str, float]:
    """Copying over a lag: share of the symbols recalled; guessing has 1/8."""
    net, head, generator = build(run, context, 10, 9)
    lag, items = run.options["lag"], run.options["items"]

    def answers(batch: int) -> tuple[Tensor, Tensor]:
        x, y = copy_memory(batch, lag, generator, items=items)
        h, _ = net(F.one_hot(x, 10).float().to(context.device))
        return head(h), y.to(context.device)

    def loss() -> Tensor:
        logits, y = answers(64)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    train([net, head], loss, run.options["steps"], 5e-3, decay=True)
    with torch.no_grad():
        logits, y = answers(1000)
    return {"recalled": float((logits[:, -items:].argmax(2) == y[:, -items:]).float().mean())}


def run_reber(run: Run, context: Context) -> dict[str, float]:
    """Embedded Reber: share of fresh strings at whose every step the likeliest symbols are the legal ones."""
    net, head, generator = build(run, context, 7, 7)

    def batch(size: int) -> tuple[list[str], Tensor, Tensor]:
        texts = embedded_reber(size, generator)
        ids = nn.utils.rnn.pad_sequence([encode(t, REBER) for t in texts], batch_first=True, padding_value=-1)
        lengths = torch.tensor([len(t) - 1 for t in texts])
        x = F.one_hot(ids[:, :-1].clamp_min(0), 7).float().to(context.device)
        return texts, head(net(x, lengths=lengths)[0]), ids[:, 1:].to(context.device)

    def loss() -> Tensor:
        _, logits, targets = batch(32)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    train([net, head], loss, run.options["steps"], 1e-2)
    with torch.no_grad():
        texts, logits, _ = batch(1000)
    right = 0
    for text, own in zip(texts, logits, strict=True):
        legal = reber_legal(text)[: len(text) - 1]
        tops = [{REBER[i] for i in own[t].topk(len(may)).indices.tolist()} for t, may in enumerate(legal)]
        right += tops == legal
    return {"solved": right / len(texts)}


def run_xor(run: Run, context: Context) -> dict[str, float]:
    """Elman's temporal XOR: squared error of the next bit by its place in the triple; only the third is predictable."""
    net, head, generator = build(run, context, 1, 1)

    def errors(triples: int, batch: int) -> Tensor:
        bits = torch.stack([temporal_xor(triples, generator) for _ in range(batch)]).float().to(context.device)
        y = head(net(bits[:, :-1, None])[0])[:, :, 0]
        return (y.sigmoid() - bits[:, 1:]).square()

    train([net, head], lambda: errors(20, 32).mean(), run.options["steps"], 1e-2)
    with torch.no_grad():
        found = errors(100, 100).mean(0)
    # after the first triple, where the phase is known
    by_place = [float(found[3 + place - 1 :: 3].mean()) for place in range(3)]
    return {"first": by_place[0], "second": by_place[1], "third": by_place[2]}


def run_ntm(run: Run, context: Context) -> dict[str, float]:
    """Copying bits: wrong bits of a sequence, for lengths trained on (1 to `longest`) and twice that."""
    torch.manual_seed(run.seed)
    generator, longest = torch.Generator().manual_seed(run.seed), run.options["longest"]
    head = nn.Linear(run.options["hidden"], 8)
    net: nn.Module
    if run.model == "LSTM":
        net = RNN(cell="lstm", input_size=9, hidden_size=run.options["hidden"])
    else:
        controller: Any = run.model.removeprefix("NTM, ")
        net, head = NTM(controller=controller, hidden_size=100, rows=run.options["rows"]), nn.Identity()  # type: ignore[assignment]
    net.to(context.device), head.to(context.device)

    def answers(batch: int, length: int) -> tuple[Tensor, Tensor]:
        x, y = ntm_copy(batch, length, generator)
        return head(net(x.to(context.device))[0][:, -length:]), y.to(context.device)

    def loss() -> Tensor:
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        return F.binary_cross_entropy_with_logits(*answers(16, length))

    train([net, head], loss, run.options["steps"], 2e-3)
    found = {}
    with torch.no_grad():
        for name, length in (("half", longest // 2), ("longest", longest), ("twice", 2 * longest)):
            logits, y = answers(100, max(1, length))
            found[name] = float(((logits > 0) != (y > 0.5)).float().sum((1, 2)).mean())
    return found


@lru_cache(maxsize=2)
def _digits(split: str) -> Recordings:
    return spoken_digits(split)


def run_speech(run: Run, context: Context) -> dict[str, float]:
    """Spoken digits: share of the test recordings named right, by the estimator."""
    training, test = _digits("train"), _digits("test")
    model = SequenceClassifier(
        cell=run.model.lower().removeprefix("b"), bidirectional=run.model.startswith("B"),
        hidden_size=run.options["hidden"], max_steps=run.options["steps"], random_state=run.seed, device=context.device,
    ).fit(training.sequences, training.labels)  # fmt: skip
    return {"accuracy": float(model.score(test.sequences, test.labels))}


def run_ctc(run: Run, context: Context) -> dict[str, float]:
    """Strings of spoken digits without their borders: label error rate, decoded greedily and with a beam."""
    torch.manual_seed(run.seed)
    rng, n = np.random.default_rng(run.seed), run.options["hidden"]
    net = RNN(cell="lstm", input_size=60, hidden_size=n, bidirectional=run.model == "BLSTM").to(context.device)
    head = nn.Linear(net.output_size, 11).to(context.device)

    def logits(split: str, count: int) -> tuple[Tensor, Tensor, list[list[int]]]:
        sequences, labels = concatenated(_digits(split), count, rng)
        # three frames a step
        stacked = [torch.from_numpy(s[: len(s) // 3 * 3].reshape(-1, 60)) for s in sequences]
        lengths = torch.tensor([len(s) for s in stacked])
        x = nn.utils.rnn.pad_sequence(stacked, batch_first=True).to(context.device)
        return head(net(x, lengths=lengths)[0]), lengths, [[digit + 1 for digit in own] for own in labels]

    def loss() -> Tensor:
        found, lengths, labels = logits("train", 16)
        return ctc_loss(found, labels, lengths, mean=True)

    train([net, head], loss, run.options["steps"], 4e-3, decay=True)
    with torch.no_grad():
        found, lengths, labels = logits("test", run.options["strings"])
    rows = [own[:steps].log_softmax(1).cpu() for own, steps in zip(found, lengths.tolist(), strict=True)]
    return {
        "greedy": error_rate([ctc_greedy(row) for row in rows], labels),
        "beam": error_rate([ctc_beam(row, width=5)[0] for row in rows], labels),
    }


GRAMS = ("unigram", "bigram", "trigram", "4-gram", "5-gram")


def run_shakespeare(run: Run, context: Context) -> dict[str, float]:
    """Tiny Shakespeare: nats a character on the last tenth, after training on the rest."""
    text = tiny_shakespeare()
    cut = len(text) * 9 // 10
    if limit := run.options.get("characters"):
        text, cut = text[:limit], limit * 9 // 10
    if run.model in GRAMS:
        order = GRAMS.index(run.model) + 1
        symbols = sorted(set(text))
        ids = np.array([symbols.index(c) for c in text])
        nats = NGram(order, len(symbols)).fit(ids[:cut]).nll(ids[cut:])
    else:
        model = CharLM(
            cell=run.model, recipe="paper", steps=run.options.get("steps"), dropout=run.options.get("dropout", 0.0),
            random_state=run.seed, device=context.device, max_seconds=math.inf,
        ).fit(text[:cut], validation=text[cut:], console=context.console)  # fmt: skip
        nats = model.loss_
    return {"nats": nats, "bits": nats / math.log(2)}


def _translated(pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
    sources = [encode(a, DATE_SYMBOLS) + 3 for a, _ in pairs]
    targets = [torch.cat([encode(b, DATE_SYMBOLS) + 3, torch.tensor([2])]) for _, b in pairs]
    pad = nn.utils.rnn.pad_sequence
    return pad(sources, batch_first=True), torch.tensor([len(s) for s in sources]), pad(targets, batch_first=True)


def run_dates(run: Run, context: Context) -> dict[str, float]:
    """Dates as people write them into ISO 8601: share of fresh ones that are right to the last sign."""
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    net = Seq2Seq(
        hidden_size=run.options["hidden"], reverse="reversed" in run.model, attention="attention" in run.model
    ).to(context.device)

    def batch(n: int) -> list[Tensor]:
        return [part.to(context.device) for part in _translated(dates(n, generator))]

    def loss() -> Tensor:
        source, lengths, target = batch(64)
        return net.loss(source, lengths.cpu(), target)

    train([net], loss, run.options["steps"], 5e-3, decay=True)
    net.eval()
    source, lengths, target = batch(1000)
    answers = net.translate_all(source, lengths.cpu(), longest=12)
    truth = [list(itertools.takewhile(lambda i: i != 2, row)) for row in target.tolist()]
    return {"exact": sum(a == b for a, b in zip(answers, truth, strict=True)) / len(truth)}


REDUCED = ("Small networks and few steps, on one core; the survey gives no numbers of its own for these tasks.",)
CELLS = ("elman", "lstm", "gru")
INITS = "elman: tanh, orthogonal recurrent matrix; elman, logistic: sigma, all weights uniform within 1/sqrt(n)."


def _adding(length: int, steps: int, models: tuple[str, ...], hidden: int = 64, seeds: int = 3) -> list[Run]:
    options = {"length": length, "hidden": hidden, "steps": steps}
    return grid(data=[f"adding, T={length}"], model=models, seeds=seeds, options=options)


EXPERIMENTS: Mapping[str, Experiment] = {
    "adding": Experiment(
        name="adding",
        title="The adding problem",
        runs={
            "cpu": [*_adding(50, 1200, ("elman", "lstm")), *_adding(100, 2500, ("elman", "lstm"))],
            "paper": [*_adding(100, 10_000, (*CELLS, "irnn", "lstm-peephole"), 128),
                      *_adding(400, 40_000, (*CELLS, "irnn", "lstm-peephole"), 128)],
            "smoke": _adding(5, 2, ("lstm",), 4, 1),
        },
        execute=run_adding,
        table=Table(Metric("mse", "mean squared error", higher_is_better=False)),
        plots=(Plot(),),
        notes=("The variance baseline is 0.167.", INITS, *REDUCED),
    ),
    "copying": Experiment(
        name="copying",
        title="Copying over a lag",
        runs={
            "cpu": [run for lag in (5, 20) for run in
                    grid(data=[f"3 symbols, lag {lag}"], model=("elman", "lstm"), seeds=3,
                         options={"lag": lag, "items": 3, "hidden": 64, "steps": 1500})],
            "paper": [run for lag in (20, 100, 200) for run in
                      grid(data=[f"10 symbols, lag {lag}"], model=("elman", "irnn", "lstm", "gru"), seeds=3,
                           options={"lag": lag, "items": 10, "hidden": 128, "steps": 40_000})],
            "smoke": grid(data=["5 symbols, lag 3"], model=["lstm"],
                          options={"lag": 3, "items": 5, "hidden": 4, "steps": 2}),
        },
        execute=run_copying,
        table=Table(Metric("recalled", "symbols recalled %", scale=100)),
        notes=("Guessing recalls 12.5 %.",
               "Sizes were made smaller after a trial with 5 symbols (one seed): at lags 10 and 30 the LSTM recalled "
               "49 and 20 %, the Elman net 31 and 13 %.", INITS, *REDUCED),
    ),
    "reber": Experiment(
        name="reber",
        title="Embedded Reber grammar",
        runs={
            "cpu": grid(data=["embedded Reber"], model=["elman, logistic", *CELLS, "lstm-1997", "lstm-peephole"],
                        seeds=3, options={"hidden": 32, "steps": 500}),
            "paper": grid(data=["embedded Reber"], model=["elman, logistic", *CELLS, "lstm-1997", "lstm-peephole"],
                          seeds=5, options={"hidden": 64, "steps": 5000}),
            "smoke": grid(data=["embedded Reber"], model=["lstm"], options={"hidden": 4, "steps": 2}),
        },
        execute=run_reber,
        table=Table(Metric("solved", "strings solved %", scale=100)),
        notes=("The row of the logistic net was added after tanh and an orthogonal matrix had solved all.", INITS,
               *REDUCED),
    ),
    "xor": Experiment(
        name="xor",
        title="Elman's temporal XOR",
        runs={
            "cpu": grid(data=["temporal XOR"], model=["elman"], seeds=3, options={"hidden": 16, "steps": 600}),
            "paper": grid(data=["temporal XOR"], model=CELLS, seeds=5, options={"hidden": 16, "steps": 3000}),
            "smoke": grid(data=["temporal XOR"], model=["elman"], options={"hidden": 4, "steps": 2}),
        },
        execute=run_xor,
        table=Table(
            [Metric(k, f"squared error, {k} bit", higher_is_better=False) for k in ("first", "second", "third")]
        ),
        plots=tuple(Plot(metric=k, name=k) for k in ("first", "third")),
        notes=("A bit that cannot be foreseen has 0.25.", *REDUCED),
    ),
    "ntm": Experiment(
        name="ntm",
        title="Copying by a neural Turing machine",
        runs={
            "cpu": grid(data=["copy, trained on lengths to 20"], model=["NTM, feedforward", "LSTM"],
                        options={"longest": 20, "hidden": 256, "rows": 64, "steps": 5000}),
            "paper": grid(data=["copy, trained on lengths to 20"], model=["NTM, feedforward", "NTM, lstm", "LSTM"],
                          seeds=3, options={"longest": 20, "hidden": 256, "rows": 128, "steps": 60_000}),
            "smoke": grid(data=["copy, trained on lengths to 2"], model=["NTM, feedforward", "NTM, lstm", "LSTM"],
                          options={"longest": 2, "hidden": 4, "rows": 8, "steps": 2}),
        },
        execute=run_ntm,
        table=Table([
            Metric("half", "wrong bits, half the longest", higher_is_better=False),
            Metric("longest", "wrong bits, the longest trained on", higher_is_better=False),
            Metric("twice", "wrong bits, twice the longest", higher_is_better=False),
        ]),
        plots=(Plot(metric="twice"),),
        notes=("Wrong bits of a sequence of 8 bits a step; guessing has 160 at length 40.",
               "Adam 0.002 in place of RMSprop 1e-4: few steps. NTM 64 x 20, LSTM 256 units.",
               "A first run of 3,000 steps with a falling learning rate had, at twice the longest, 32 wrong bits (NTM) "
               "and 140 (LSTM).", *REDUCED),
    ),
    "speech": Experiment(
        name="speech",
        title="Spoken digits",
        runs={
            "cpu": grid(data=["spoken digits"], model=["LSTM", "BLSTM"], seeds=3,
                        options={"hidden": 64, "steps": 600}),
            "paper": grid(data=["spoken digits"], model=["LSTM", "BLSTM", "BGRU", "BElman"], seeds=5,
                          options={"hidden": 128, "steps": 5000}),
            "smoke": grid(data=["spoken digits"], model=["BLSTM"], options={"hidden": 4, "steps": 1}),
        },
        execute=run_speech,
        table=Table(Metric("accuracy", "recordings right %", scale=100)),
        notes=("600 recordings to train, 300 to test, of six speakers who are in both; SequenceClassifier's defaults.",
               "Guessing has 10 %.", *REDUCED),
    ),
    "ctc": Experiment(
        name="ctc",
        title="Strings of spoken digits by CTC",
        runs={
            "cpu": grid(data=["2 to 4 digits"], model=["LSTM", "BLSTM"], seeds=3,
                        options={"hidden": 96, "steps": 500, "strings": 300}),
            "paper": grid(data=["2 to 4 digits"], model=["LSTM", "BLSTM"], seeds=5,
                          options={"hidden": 128, "steps": 10_000, "strings": 1000}),
            "smoke": grid(data=["2 to 4 digits"], model=["BLSTM"], options={"hidden": 4, "steps": 1, "strings": 2}),
        },
        execute=run_ctc,
        table=Table([Metric("greedy", "label errors %, greedy", higher_is_better=False, scale=100),
                     Metric("beam", "label errors %, beam of 5", higher_is_better=False, scale=100)]),
        plots=(Plot(metric="beam"),),
        notes=("Recordings of one speaker joined; nothing tells where one ends. No digits at all is 100 %.", *REDUCED),
    ),
    "shakespeare": Experiment(
        name="shakespeare",
        title="Tiny Shakespeare by characters",
        runs={
            "cpu": [*grid(data=["tiny Shakespeare"], model=GRAMS),
                    *grid(data=["tiny Shakespeare"], model=["lstm"], options={"steps": 3200})],
            "paper": [*grid(data=["tiny Shakespeare"], model=GRAMS),
                      *grid(data=["tiny Shakespeare"], model=CELLS, seeds=3,
                            options={"steps": 20_000, "dropout": 0.2})],
            "smoke": [*grid(data=["tiny Shakespeare"], model=["trigram"], options={"characters": 1000}),
                      *grid(data=["tiny Shakespeare"], model=["lstm"], options={"characters": 1000, "steps": 1})],
        },
        execute=run_shakespeare,
        table=Table([Metric("nats", "nats a character", higher_is_better=False),
                     Metric("bits", "bits a character", higher_is_better=False)]),
        plots=(Plot(metric="nats"),),
        notes=("Two layers of 128, batch 50, window 50: 8 passes. n-grams by Witten and Bell's interpolation.",
               "The best of ten looks at the held-out tenth counts, as in char-rnn.", *REDUCED),
    ),
    "dates": Experiment(
        name="dates",
        title="Dates into ISO 8601 by encoder and decoder",
        runs={
            "cpu": grid(data=["dates"], model=["forward", "reversed", "reversed, attention"], seeds=3,
                        options={"hidden": 96, "steps": 800}),
            "paper": grid(data=["dates"], model=["forward", "reversed", "reversed, attention"], seeds=5,
                          options={"hidden": 256, "steps": 10_000}),
            "smoke": grid(data=["dates"], model=["reversed, attention"], options={"hidden": 4, "steps": 1}),
        },
        execute=run_dates,
        table=Table(Metric("exact", "exactly right %", scale=100)),
        notes=("201,600 dates and ways of writing them; 51,200 are drawn to train and 1,000 to test, some of which may "
               "have been met.", *REDUCED),
    ),
}  # fmt: skip
