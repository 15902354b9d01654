"""What `shared_impl.train` trains on, as a sequence of optimizer steps that can be entered at any position.

The batch of a step is the same whatever the number of processes and of accumulation steps: it is cut into
processes x accumulation parts, and each part comes with its share of the batch, so that the weighted sum of the
parts' mean losses is the mean over the whole batch, also when the parts are unequal.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

from shared_impl import fingerprint


class Step(NamedTuple):
    """What one process does in one optimizer step."""

    parts: list[tuple[Any, float]]
    """(micro-batch on the device, its share of the whole batch of the step)"""
    examples: int
    """weight of the step in the mean of the training loss: examples in the whole batch (1 for a stream)"""
    ignored: bool = False
    """whether targets in it are ignored (-100); looked for only where the batch is cut"""


class Layout(NamedTuple):
    """How the batch of a step is cut."""

    device: torch.device
    rank: int
    processes: int
    accumulation: int

    @property
    def whole(self) -> bool:
        """Whether a batch is one part."""
        return self.processes * self.accumulation == 1

    def cut(self, n: int) -> list[tuple[int, int, float]]:
        """(start, stop, share) of this process's parts of a batch of n examples."""
        pieces = self.processes * self.accumulation
        edges = [i * n // pieces for i in range(pieces + 1)]
        first = self.rank * self.accumulation
        mine = [(edges[i], edges[i + 1]) for i in range(first, first + self.accumulation)]
        parts = [(start, stop, (stop - start) / n) for start, stop in mine if stop > start]
        # Fewer examples than processes: this one goes through the motions, for the others wait for its gradients.
        return parts or [(0, 1, 0.0)]


def seed_for(*words: int) -> int:
    """A 63-bit seed that is well mixed for each tuple of non-negative numbers."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with each tensor (and anything else with a `to`) in tuples, lists and mappings on the device."""
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if hasattr(batch, "to"):
        return batch.to(device)
    return _map(lambda value: to_device(value, device), batch)


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(function(v) for v in tree))
    if isinstance(tree, tuple | list):
        return type(tree)([function(v) for v in tree])
    if isinstance(tree, Mapping):
        return {k: function(v) for k, v in tree.items()}
    return tree


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    return [leaf for v in tree for leaf in _leaves(v)] if isinstance(tree, tuple | list) else [tree]


def has_ignored(batch: Any) -> bool:
    """Whether whole numbers in a batch are -100, which loss functions take for "no target"."""
    return any(
        isinstance(leaf, Tensor) and leaf.dtype in (torch.int32, torch.int64) and bool((leaf == -100).any())
        for leaf in _leaves(batch)
    )


class Batches:
    """Interface of the three sources below."""

    steps_per_epoch: int | None = None
    examples: int | None = None
    kind: str

    def steps(self, epoch: int, start: int) -> Iterator[Step]:
        """The steps of an epoch from position `start` on."""
        raise NotImplementedError

    def content(self) -> str:
        """A digest of what is trained on, as far as it can be told without side effects."""
        return ""

    def state(self) -> Any:
        """What has to be saved to go on exactly, beside epoch and position."""
        return None

    def load_state(self, state: Any) -> None:
        """Take back what `state` returned."""

    def close(self) -> None:
        """End worker processes."""


class _Epochs(Batches):
    def __init__(self, n: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int, layout: Layout) -> None:
        self.examples, self.batch_size, self.seed, self.layout = n, batch_size, seed, layout
        self.shuffle = shuffle
        self.steps_per_epoch: int = n // batch_size if drop_last else -(-n // batch_size)

    def order(self, epoch: int) -> Tensor | None:
        if not self.shuffle:
            return None
        generator = torch.Generator().manual_seed(seed_for(self.seed, 0, epoch))
        return torch.randperm(self.examples or 0, generator=generator)

    def spans(self, start: int) -> Iterator[tuple[int, list[tuple[int, int, float]]]]:
        whole = self.layout.cut(self.batch_size)
        for i in range(start, self.steps_per_epoch):
            first = i * self.batch_size
            n = min(self.batch_size, (self.examples or 0) - first)
            cut = whole if n == self.batch_size else self.layout.cut(n)
            yield n, [(first + a, first + b, share) for a, b, share in cut]


class TensorBatches(_Epochs):
    """Tensors with the examples along their first dimension: batches by indexing, nothing an example."""

    kind = "tensors"

    def __init__(self, data: Any, *args: Any) -> None:
        super().__init__(*args)
        self.data = data
        homes = {leaf.device for leaf in _leaves(data)}
        self.home = homes.pop()
        if homes:
            raise ValueError(f"tensors in train_data must be on one device, got {self.home} and {homes.pop()}")
        self.ignored = not self.layout.whole and has_ignored(data)

    def content(self) -> str:
        return fingerprint.of_data(self.data)

    def steps(self, epoch: int, start: int) -> Iterator[Step]:
        order = self.order(epoch)
        order = order if order is None else order.to(self.home)
        at_home = self.home == self.layout.device
        for n, spans in self.spans(start):
            parts = []
            for first, stop, share in spans:
                index = slice(first, stop) if order is None else order[first:stop]
                batch = _take(self.data, index)
                parts.append((batch if at_home else to_device(batch, self.layout.device), share))
            yield Step(parts, n, self.ignored)


def _take(data: Any, index: Any) -> Any:
    if type(data) is tuple:  # by far the most frequent, so without the detour
        return tuple([_take(t, index) for t in data])
    return data[index] if isinstance(data, Tensor) else _map(lambda t: _take(t, index), data)


class LoaderBatches(_Epochs):
    """A map-style data set, through torch's DataLoader."""

    kind = "dataset"

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any] | None, num_workers: int, *args: Any) -> None:
        super().__init__(*args)
        # a list holds its examples; an object may draw or read them anew each time
        self.plain = data if type(data) in (list, tuple) else None
        self.plan = _Plan()
        self.loader: DataLoader[Any] | None = DataLoader(
            _Items(data),
            batch_sampler=self.plan,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self.layout.device.type == "cuda",
            # Its own: starting an epoch must not draw from the global generator, or a resumed epoch would differ.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def steps(self, epoch: int, start: int) -> Iterator[Step]:
        order = self.order(epoch)

        def plan() -> Iterator[list[int]]:
            for _, cut in self.spans(start):
                for first, stop, _ in cut:
                    index = range(first, stop) if order is None else order[first:stop].tolist()
                    yield [seed_for(self.seed, 1, epoch, first), *index]

        self.plan.make = plan
        assert self.loader is not None, "used after close"
        loaded = iter(self.loader)
        for n, cut in self.spans(start):
            batches = [next(loaded) for _ in cut]
            ignored = not self.layout.whole and any(map(has_ignored, batches))
            parts = [(to_device(b, self.layout.device), share) for b, (*_, share) in zip(batches, cut, strict=True)]
            yield Step(parts, n, ignored)

    def content(self) -> str:
        return "" if self.plain is None else fingerprint.of_data(self.plain)

    def close(self) -> None:
        # Now, not whenever a cycle of references is found: then the workers' queues may go first, and each worker is
        # waited for in vain for five seconds.
        self.loader = None


class _Plan:
    """The batch sampler: what is planned for the rest of the epoch, made as it is asked for.

    A run by the clock plans far more steps than it takes.
    """

    make: Callable[[], Iterator[list[int]]] = staticmethod(lambda: iter(()))

    def __iter__(self) -> Iterator[list[int]]:
        return self.make()


class _Items(Dataset[Any]):
    """The data set, asked for whole batches: a seed, then the indices. The seed is for random augmentation in worker
    processes, whose generators no checkpoint can hold; in this process the global generators serve, which it does."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    def __getitems__(self, keys: list[int]) -> list[Any]:
        seed, *indices = keys
        if get_worker_info() is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - data sets in the wild draw from the global generator
            torch.manual_seed(seed)
        many = getattr(self.data, "__getitems__", None)
        return many(indices) if many else [self.data[i] for i in indices]


class StreamBatches(Batches):
    """A function that draws batch after batch from a generator."""

    kind = "stream"

    def __init__(self, draw: Callable[[torch.Generator], Any], seed: int, layout: Layout) -> None:
        self.draw, self.layout = draw, layout
        self.generator = torch.Generator().manual_seed(seed_for(seed, 2))

    def steps(self, epoch: int, start: int) -> Iterator[Step]:
        while True:
            batch = self.draw(self.generator)
            if self.layout.whole:
                yield Step([(to_device(batch, self.layout.device), 1.0)], 1)
                continue
            # Every process draws the same batch and takes its part.
            sizes = {leaf.shape[0] if isinstance(leaf, Tensor) and leaf.ndim else -1 for leaf in _leaves(batch)}
            if len(sizes) != 1 or min(sizes) < 1:
                raise ValueError(
                    "a batch of the stream cannot be cut for several processes or accumulation steps: "
                    "it must be made of tensors with equal first dimensions"
                )
            cut = self.layout.cut(sizes.pop())
            parts = [(to_device(_take(batch, slice(a, b)), self.layout.device), share) for a, b, share in cut]
            yield Step(parts, 1, has_ignored(batch))

    def content(self) -> str:
        # the same function of a generator gives the same first batch
        return fingerprint.of_data(self.draw(torch.Generator().manual_seed(0)))

    def state(self) -> Tensor:
        return self.generator.get_state()

    def load_state(self, state: Tensor) -> None:
        self.generator.set_state(state.clone())


def _aligned(data: list[Any]) -> bool:
    """Whether a short list of tensors looks like inputs and targets, not like examples."""
    if not 2 <= len(data) <= 4 or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in data):
        return False
    return len({len(leaf) for leaf in data}) == 1 and len(data[0]) > len(data)


def make_batches(
    data: Any,
    *,
    batch_size: int | None,
    shuffle: bool,
    drop_last: bool,
    seed: int,
    collate: Callable[[list[Any]], Any] | None,
    num_workers: int,
    layout: Layout,
) -> Batches:
    """The source for what the user gave.

    Raises:
        ValueError: nothing to train on, a missing batch size, tensors of unequal length, or a kind that is not known.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, IterableDataset):
        raise ValueError("the position in an IterableDataset cannot be saved: give a function of a torch.Generator")
    leaves = _leaves(data) if isinstance(data, Tensor | tuple | Mapping) else []
    if leaves and collate is None and all(isinstance(leaf, Tensor) for leaf in leaves):
        lengths = [len(leaf) if leaf.ndim else None for leaf in leaves]
        if len(set(lengths)) != 1 or lengths[0] is None:
            raise ValueError(f"tensors in train_data must have equal first dimensions, got {lengths}")
        n = lengths[0]
    elif isinstance(data, Sequence | Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        leaves, n = [], len(data)  # type: ignore[arg-type]
    elif callable(data):
        if batch_size is not None:
            raise ValueError(f"batch_size must be None for a stream, which makes its own batches, got {batch_size}")
        return StreamBatches(data, seed, layout)
    else:
        raise ValueError(
            "train_data must be tensors, a map-style data set or a function of a torch.Generator, "
            f"got {type(data).__name__}"
        )
    if collate is None and type(data) is list and _aligned(data):
        raise ValueError(
            f"train_data is a list of {len(data)} tensors of equal length: give a tuple if their first dimensions are "
            "the examples, or stack them if each is one example"
        )
    if n == 0:
        raise ValueError("train_data is empty")
    if batch_size is None:
        raise ValueError("batch_size must be given for tensors and data sets")
    if drop_last and n < batch_size:
        raise ValueError(f"drop_last leaves nothing of {n} examples with batch_size {batch_size}")
    shared = (n, batch_size, shuffle, drop_last, seed, layout)
    return TensorBatches(data, *shared) if leaves else LoaderBatches(data, collate, num_workers, *shared)
