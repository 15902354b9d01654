"""Language models (section 5.1): a network over ids, and `CharLM`, which is fitted to a text and writes more of it."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from rich.console import Console
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained
from shared_impl.results import write_atomically

from .checks import State, check_ids, check_positive
from .metrics import perplexity
from .rnn import RNN
from .training import clip_norm, detach

__all__ = ["CharLM", "LanguageModel", "LanguageOutput"]


class LanguageOutput(NamedTuple):
    """What a language model says of a batch."""

    logits: Tensor
    """(batch, length, vocabulary)"""
    loss: Tensor | None
    """mean cross-entropy in nats, where targets are given"""
    state: list[State]


class LanguageModel(nn.Module, Pretrained):
    """Embedding, recurrent layers, softmax: p(id | all before).

    Args:
        embedding_size: 0 for one-hot vectors, the survey's plainest input; the hidden size by default.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 65,
        cell: str = "lstm",
        hidden_size: int = 128,
        layers: int = 2,
        embedding_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(vocabulary=vocabulary)
        width = hidden_size if embedding_size is None else embedding_size
        if width < 0:
            raise ValueError(f"embedding_size must not be negative, got {embedding_size}")
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, width) if width else None
        self.rnn = RNN(
            cell=cell, input_size=width or vocabulary, hidden_size=hidden_size, layers=layers, dropout=dropout
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, vocabulary)

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        state: list[State] | None = None,
        targets: Tensor | None = None,
    ) -> LanguageOutput:
        """Logits of the next id at every step; targets of -100 are left out of the loss.

        Raises:
            ValueError: ids outside the vocabulary, targets of another shape, a state of another batch size.
        """
        check_ids(ids, self.vocabulary, "ids")
        one_hot = self.embedding is None
        x = F.one_hot(ids, self.vocabulary).to(self.output.weight) if one_hot else self.embedding(ids)  # type: ignore[misc]
        h, state = self.rnn(x, state)
        logits = self.output(self.dropout(h))
        if targets is None:
            return LanguageOutput(logits, None, state)
        if targets.shape != ids.shape:
            raise ValueError(f"targets must have the shape of ids, {tuple(ids.shape)}, got {tuple(targets.shape)}")
        check_ids(targets[targets != -100], self.vocabulary, "targets")
        return LanguageOutput(logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten()), state)

    @torch.no_grad()
    def generate(
        self,
        ids: Int[Tensor, "batch length"],
        max_new_tokens: int = 100,
        *,
        do_sample: bool = True,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """The ids and what the model goes on with; arguments are named as in Hugging Face's `generate`.

        Args:
            temperature: below 1 sharpens, towards greedy.
            attention_mask: 0 where a prompt is padded; padding stands on the left.
            eos_token_id: ends a row, which is then filled with `pad_token_id` (by default the same).

        Raises:
            ValueError: an empty prompt, ids outside the vocabulary, settings out of range.
        """
        check_positive(max_new_tokens=max_new_tokens, temperature=temperature, repetition_penalty=repetition_penalty)
        if not ids.shape[1]:
            raise ValueError("ids must have at least one step, got length 0")
        if top_k is not None:
            check_positive(top_k=top_k)
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
        was, found = self.training, ids
        self.eval()
        logits, state = self._prompt(ids, attention_mask)
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(max_new_tokens):
            if repetition_penalty != 1:
                seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, found, True)
                worse = torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
                logits = torch.where(seen, worse, logits)
            new = _draw(logits / temperature, top_k, top_p, generator) if do_sample else logits.argmax(1)
            if eos_token_id is not None:
                new = torch.where(ended, eos_token_id if pad_token_id is None else pad_token_id, new)
                ended = ended | (new == eos_token_id)
            found = torch.cat([found, new[:, None]], 1)
            if bool(ended.all()):
                break
            step = self(new[:, None], state)
            logits, state = step.logits[:, -1], step.state
        self.train(was)
        return found

    def _prompt(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, list[State]]:
        if mask is None:
            out = self(ids)
            return out.logits[:, -1], out.state
        if mask.shape != ids.shape or bool((mask[:, 1:] < mask[:, :-1]).any()) or not bool(mask[:, -1].all()):
            raise ValueError("attention_mask must be 0 on the left, 1 on the right, and end with 1 in every row")
        # rows without their padding, aligned on the left, as lengths have it
        lengths = mask.sum(1)
        start = ids.shape[1] - lengths
        index = (torch.arange(ids.shape[1], device=ids.device) + start[:, None]).clamp_max(ids.shape[1] - 1)
        check_ids(ids, self.vocabulary, "ids")
        moved = ids.gather(1, index)
        one_hot = self.embedding is None
        x = F.one_hot(moved, self.vocabulary).to(self.output.weight) if one_hot else self.embedding(moved)  # type: ignore[misc]
        h, state = self.rnn(x, lengths=lengths)
        return self.output(h[torch.arange(len(ids), device=ids.device), lengths - 1]), state


def _draw(logits: Tensor, top_k: int | None, top_p: float | None, generator: torch.Generator | None) -> Tensor:
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[1]), 1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p is not None:
        ordered, order = logits.sort(1, descending=True)
        p = ordered.softmax(1)
        # the first symbol is always kept
        out = (p.cumsum(1) - p) >= top_p
        logits = logits.masked_fill(out.gather(1, order.argsort(1)), -math.inf)
    return torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


class CharLM:
    """A language model of characters (or words) that is fitted to a text.

    Training is truncated BPTT: the text is cut into `batch_size` streams, read `window` symbols at a time, and states
    are carried on without gradients. The last tenth is held out; the best weights on it are kept. A text of fewer
    symbols than a few windows is not refused, but the model is hardly better than counting, and says so by a warning.

    Args:
        words: symbols are words between blanks, and line ends.
        steps: updates; by default four passes over the text, 300 at least and 4,000 at most.
        recipe: "paper" takes the settings of the brief for tiny Shakespeare: 2 layers of 128, batch 50, window 50,
            learning rate 0.002, 10 passes.
        max_seconds: of training.
    """

    def __init__(
        self,
        *,
        cell: str = "lstm",
        hidden_size: int = 128,
        layers: int = 1,
        words: bool = False,
        steps: int | None = None,
        batch_size: int = 32,
        window: int = 50,
        lr: float = 4e-3,
        dropout: float = 0.0,
        recipe: str = "default",
        max_seconds: float = 600.0,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        if recipe not in ("default", "paper"):
            raise ValueError(f"recipe must be one of default, paper, got {recipe!r}")
        check_positive(hidden_size=hidden_size, layers=layers, batch_size=batch_size, window=window, lr=lr)
        self.settings: dict[str, Any] = {
            "cell": cell, "hidden_size": hidden_size, "layers": layers, "words": words, "steps": steps,
            "batch_size": batch_size, "window": window, "lr": lr, "dropout": dropout, "recipe": recipe,
            "max_seconds": max_seconds, "random_state": random_state, "device": device,
        }  # fmt: skip
        if recipe == "paper":
            self.settings |= {"hidden_size": 128, "layers": 2, "batch_size": 50, "window": 50, "lr": 2e-3}

    # Symbols ------------------------------------------------------------------------------------------------------

    def _split(self, text: str) -> list[str]:
        return text.replace("\n", " \n ").split(" ") if self.settings["words"] else list(text)

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text's symbols.

        Raises:
            ValueError: names the first symbol that the text of `fit` has not.
        """
        if not hasattr(self, "symbols_"):
            raise ValueError("fit must come first: this model has seen no text")
        place = {symbol: i for i, symbol in enumerate(self.symbols_)}
        symbols = [s for s in self._split(text) if s] if self.settings["words"] else self._split(text)
        for symbol in symbols:
            if symbol not in place and "<unk>" not in place:
                raise ValueError(f"text must be made of the {len(place)} symbols of the training text, got {symbol!r}")
        return np.array([place[s] if s in place else place["<unk>"] for s in symbols], dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids."""
        joined = (" " if self.settings["words"] else "").join(self.symbols_[i] for i in ids)
        return joined.replace(" \n ", "\n") if self.settings["words"] else joined

    # Training -----------------------------------------------------------------------------------------------------

    def fit(self, text: str, *, validation: str | None = None, console: Console | None = None) -> "CharLM":
        """Train on a text; `validation` is held out instead of the text's last tenth.

        Raises:
            ValueError: a text of fewer than 20 symbols.
        """
        import warnings

        s = self.settings
        found = self._split(text + (validation or ""))
        self.symbols_ = sorted({symbol for symbol in found if symbol})
        ids = self.encode(text)
        if len(ids) < 20:
            raise ValueError(f"text must have at least 20 symbols, got {len(ids)}")
        cut = len(ids) if validation is not None else len(ids) - max(2, len(ids) // 10)
        train, held = ids[:cut], self.encode(validation) if validation is not None else ids[cut:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(s["random_state"])
            self.model_ = LanguageModel(
                vocabulary=len(self.symbols_), cell=s["cell"], hidden_size=s["hidden_size"], layers=s["layers"],
                dropout=s["dropout"],
            ).to(s["device"])  # fmt: skip
            self._train(train, held, console)
        self.loss_ = self.nll(held)
        from .ngrams import NGram

        self.baseline_ = (
            NGram(min(2, len(train)), len(self.symbols_)).fit(train).nll(np.concatenate([train[-1:], held]))
        )
        self.skill_ = 1 - self.loss_ / self.baseline_ if self.baseline_ > 0 else 0.0
        if self.loss_ >= self.baseline_:
            warnings.warn(
                f"the network is not better than counting pairs of symbols: {self.loss_:.3f} against "
                f"{self.baseline_:.3f} nats on held-out text; give more text or more steps", stacklevel=2,
            )  # fmt: skip
        return self

    def _train(self, train: np.ndarray, held: np.ndarray, console: Console | None) -> None:
        s, net = self.settings, self.model_
        streams = max(1, min(s["batch_size"], (len(train) - 1) // 2))
        each = (len(train) - 1) // streams
        window = min(s["window"], each)
        windows = max(1, each // window)
        table = torch.from_numpy(train[: streams * each + 1]).to(s["device"])
        x, y = table[:-1].view(streams, each), table[1:].view(streams, each)
        passes = 10 if s["recipe"] == "paper" else 4
        steps = s["steps"] or (passes * windows if s["recipe"] == "paper" else min(4000, max(300, passes * windows)))
        optimizer = torch.optim.Adam(net.parameters(), s["lr"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.1 + 0.9 * (1 - t / steps))
        every, best, kept = max(50, steps // 10), math.inf, None
        state, begun, self.history_ = None, time.monotonic(), []
        for step in range(1, steps + 1):
            at = (step - 1) % windows * window
            state = None if at == 0 or state is None else detach(state)
            out = net(x[:, at : at + window], state, y[:, at : at + window])
            optimizer.zero_grad()
            out.loss.backward()
            clip_norm([p.grad for p in net.parameters() if p.grad is not None], 5.0)
            optimizer.step()
            schedule.step()
            state = out.state
            late = time.monotonic() - begun > s["max_seconds"]
            if step % every == 0 or step == steps or late:
                loss = self.nll(held)
                self.history_.append((step, loss))
                if console is not None:
                    console.print(f"step {step} of {steps}: {loss:.3f} nats held out", highlight=False)
                if loss < best:
                    best, kept = loss, {name: v.detach().clone() for name, v in net.state_dict().items()}
            if late:
                break
        if kept is not None:
            net.load_state_dict(kept)
        net.eval()
        self.steps_ = step

    # Use ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def nll(self, text: str | np.ndarray, *, piece: int = 5000) -> float:
        """Mean negative log-likelihood in nats of all symbols but the first, read as one sequence.

        Raises:
            ValueError: fewer than two symbols, or an unknown one.
        """
        ids = self.encode(text) if isinstance(text, str) else text
        if len(ids) < 2:
            raise ValueError(f"text must have at least 2 symbols, got {len(ids)}")
        was, total, state = self.model_.training, 0.0, None
        self.model_.eval()
        table = torch.from_numpy(ids).to(self.settings["device"])[None]
        for a in range(0, len(ids) - 1, piece):
            b = min(a + piece, len(ids) - 1)
            out = self.model_(table[:, a:b], state, table[:, a + 1 : b + 1])
            total, state = total + float(out.loss) * (b - a), out.state
        self.model_.train(was)
        return total / (len(ids) - 1)

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log-likelihood a symbol."""
        return perplexity(self.nll(text), 1)

    def generate(self, prompt: str = "\n", max_new_tokens: int = 200, *, seed: int = 0, **options: Any) -> str:
        """The prompt and what follows; options are those of `LanguageModel.generate`.

        Raises:
            ValueError: an empty prompt, or a symbol that the text of `fit` has not.
        """
        ids = self.encode(prompt)
        if not len(ids):
            raise ValueError("prompt must have at least one symbol, got none")
        generator = torch.Generator(self.settings["device"]).manual_seed(seed)
        given = torch.from_numpy(ids).to(self.settings["device"])[None]
        return self.decode(self.model_.generate(given, max_new_tokens, generator=generator, **options)[0].tolist())

    def save(self, folder: Path | str) -> Path:
        """Weights as safetensors, the rest as JSON."""
        folder = Path(folder)
        self.model_.save_pretrained(folder)
        content = {"estimator": "CharLM", "settings": self.settings, "symbols": self.symbols_, "loss": self.loss_}
        write_atomically(folder / "language.json", json.dumps(content, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "CharLM":
        """Read what `save` wrote.

        Raises:
            ValueError: the folder holds none, or a damaged one.
        """
        path = Path(folder) / "language.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            model = cls(**{**content["settings"], "device": "cpu"})
            model.symbols_, model.loss_ = list(content["symbols"]), float(content["loss"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} must be a folder that CharLM.save wrote: {error}") from error
        model.model_ = LanguageModel.from_pretrained(folder).eval()
        return model
