"""Public data sets that several packages use, as plain numpy and scipy.

Each is one table in `datasets.toml` and one function here, which fetches the files (`shared_impl.data.fetch`), parses
them inside `reading(path)`, so that a damaged file is an error with its name, and returns a small frozen dataclass.
"""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shared_impl.data import DataError, fetch, load_restricted_pickle, reading

if TYPE_CHECKING:
    import scipy.sparse

__all__ = [
    "AnswerPairs",
    "CitationGraph",
    "ImageSet",
    "TimeSeries",
    "TuGraph",
    "digits",
    "ett",
    "gnn_benchmark",
    "mnist",
    "planetoid",
    "tiny_shakespeare",
    "tu_graphs",
    "wikiqa",
    "wikitext2",
]

PLANETOID_VALIDATION = 500  # papers after those to train


@dataclass(frozen=True)
class ImageSet:
    """Images of one size with a class each."""

    images: np.ndarray
    """uint8, (n, height, width)"""
    labels: np.ndarray
    """int64, (n,)"""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TimeSeries:
    """A regularly sampled multivariate series."""

    values: np.ndarray
    """float64, (length, channels)"""
    columns: tuple[str, ...]
    timestamps: np.ndarray
    """datetime64[s], (length,)"""

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class CitationGraph:
    """Papers, their words, and who cites whom, without directions, loops or repeats."""

    features: "scipy.sparse.csr_matrix"
    """float32, (n, words)"""
    edge_index: np.ndarray
    """int64, (2, 2 m): each of the m edges in both directions, sorted"""
    labels: np.ndarray
    """int64, (n,)"""
    train_mask: np.ndarray | None = None
    """bool, (n,); the masks are None where the data set comes without splits"""
    val_mask: np.ndarray | None = None
    test_mask: np.ndarray | None = None

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1


def digits() -> ImageSet:
    """1,797 handwritten digits of 8 × 8 pixels with values from 0 to 16, 10 classes; comes with scikit-learn.

    Source: UCI, Optical Recognition of Handwritten Digits (test part), E. Alpaydin and C. Kaynak, CC BY 4.0.

    Raises:
        DataError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits data set comes with scikit-learn: pip install scikit-learn") from error
    bundle = load_digits()
    return ImageSet(bundle.images.astype(np.uint8), bundle.target.astype(np.int64))


def mnist(split: Literal["train", "test"] = "train") -> ImageSet:
    """Handwritten digits of 28 × 28 grey pixels from 0 to 255, 10 classes: 60,000 to train, 10,000 to test.

    Source: LeCun et al., 1998. Licence not stated by the authors (often quoted as CC BY-SA 3.0). About 11.6 MB.

    Raises:
        DataError: if a file cannot be had or is damaged.
    """
    dataset, prefix = _choose("split", split, {"train": ("mnist_train", "train"), "test": ("mnist_t10k", "t10k")})
    images = _read_idx(fetch(dataset, f"{prefix}-images-idx3-ubyte.gz"), dimensions=3)
    labels = _read_idx(fetch(dataset, f"{prefix}-labels-idx1-ubyte.gz"), dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"MNIST {split}: {len(images)} images, but {len(labels)} labels")
    return ImageSet(images, labels.astype(np.int64))


def ett(name: Literal["ETTh1", "ETTh2", "ETTm1", "ETTm2"] = "ETTh1") -> TimeSeries:
    """Electricity transformer temperature: six loads and the oil temperature (`OT`, the usual target), 2016 to 2018.

    ETTh1 and ETTh2 are hourly (17,420 rows), ETTm1 and ETTm2 every 15 minutes (69,680 rows). Papers use the first 12
    months to train, the next 4 to validate, the next 4 to test, a month being 30 days.
    Source: Zhou et al., Informer, AAAI 2021. CC BY-ND 4.0. About 2.5 MB (hourly) and 10 MB each.

    Raises:
        DataError: if the file cannot be had or is damaged.
    """
    dataset = _choose(
        "name", name, {"ETTh1": "ett_small", "ETTh2": "ett_small", "ETTm1": "ett_minute", "ETTm2": "ett_minute"}
    )
    return _read_time_series(fetch(dataset, f"{name}.csv"), ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"))


def tiny_shakespeare() -> str:
    """1,115,394 characters of Shakespeare's plays, 65 distinct; usually the first 90 % to train, the rest to validate.

    Source: A. Karpathy, char-rnn, 2015. The text is in the public domain. 1.1 MB.

    Raises:
        DataError: if the file cannot be had or is damaged.
    """
    return _read_text(fetch("tinyshakespeare", "input.txt"))


def wikitext2(split: Literal["valid", "test"] = "valid") -> str:
    """WikiText-2 at word level, a paragraph a line, words apart by spaces, `<unk>` for rare ones: 217,646 tokens to
    validate and 245,569 to test (with one for the end of each line). The training split is not registered.

    Source: Merity et al., ICLR 2017. CC BY-SA 3.0. 1.1 and 1.3 MB.

    Raises:
        DataError: if the file cannot be had or is damaged.
    """
    return _read_text(fetch("wikitext-2", _choose("split", split, {"valid": "valid.txt", "test": "test.txt"})))


@dataclass(frozen=True)
class AnswerPairs:
    """Questions with candidate sentences, those of a question one after the other."""

    questions: list[str]
    sentences: list[str]
    labels: np.ndarray
    """bool, (pairs,): whether the sentence answers the question"""

    def __len__(self) -> int:
        return len(self.labels)


def wikiqa(split: Literal["train", "test"] = "train") -> AnswerPairs:
    """WikiQA, tokenised, questions that have an answer only: 8,672 pairs of 873 questions, and 2,351 of 243 to test.

    Source: Yang, Yih and Meek, EMNLP 2015. Microsoft Research Data License (research use). 1.5 and 0.4 MB.

    Raises:
        DataError: if the file cannot be had or is damaged.
    """
    path = fetch("wikiqa_filtered_train", _choose("split", split, {"train": "train.txt", "test": "test.txt"}))
    questions, sentences, labels = [], [], []
    with reading(path):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            parts = line.split("\t")
            if len(parts) != 3 or parts[0] not in ("0", "1"):
                raise ValueError(f"line {number} is not label, question, sentence: {line[:60]!r}")
            labels.append(parts[0] == "1")
            questions.append(parts[1])
            sentences.append(parts[2])
        if not labels:
            raise ValueError("no lines")
    return AnswerPairs(questions, sentences, np.array(labels))


@dataclass(frozen=True)
class TuGraph:
    """One graph of a TU set."""

    edge_index: np.ndarray
    """int64, (2, edges): both directions of each"""
    tags: np.ndarray
    """int64, (nodes,): kinds of node, as the file numbers them"""
    label: int
    """class, from 0"""


def tu_graphs(name: Literal["MUTAG", "PTC", "PROTEINS", "IMDBBINARY", "IMDBMULTI", "NCI1"] = "MUTAG") -> list[TuGraph]:
    """A set of graphs to classify, without attributes. Classes are numbered from 0 in the order of the file's labels.

    Source: Morris et al., TUDataset, 2020. MUTAG: carbon is tag 2, nitrogen 5, oxygen 6, hydrogen is left out.

    Raises:
        DataError: if the file cannot be had or is damaged.
    """
    known = ("MUTAG", "PTC", "PROTEINS", "IMDBBINARY", "IMDBMULTI", "NCI1")
    path = fetch("tu_graphs_txt", _choose("name", name, {n: f"{n}/{n}.txt" for n in known}))
    graphs: list[TuGraph] = []
    with reading(path):
        lines = iter(path.read_text(encoding="ascii").splitlines())
        for _ in range(int(next(lines, "0"))):
            n, label = (int(word) for word in next(lines, "").split())
            tags, ends = [], []
            for node in range(n):
                tag, count, *others = (int(word) for word in next(lines, "").split())
                if len(others) < count or any(not 0 <= other < n for other in others[:count]):
                    raise ValueError(f"node {node} of graph {len(graphs)} names neighbours that are not there")
                tags.append(tag)
                ends += [(node, other) for other in others[:count]]
            edges = np.array(ends, dtype=np.int64).reshape(-1, 2).T
            graphs.append(TuGraph(edges, np.array(tags, dtype=np.int64), label))
        if not graphs:
            raise ValueError("no graphs")
    classes = {label: i for i, label in enumerate(sorted({graph.label for graph in graphs}))}
    return [TuGraph(graph.edge_index, graph.tags, classes[graph.label]) for graph in graphs]


def planetoid(name: Literal["cora", "citeseer", "pubmed"] = "cora") -> CitationGraph:
    """The citation graphs of Planetoid with their fixed splits: 20 papers a class to train, 500 to validate, 1,000 to
    test. Features are as published (Cora and CiteSeer binary, PubMed tf-idf).

    | | papers | edges | words | classes |
    |---|---|---|---|---|
    | cora | 2,708 | 5,278 | 1,433 | 7 |
    | citeseer | 3,327 | 4,552 | 3,703 | 6 |
    | pubmed | 19,717 | 44,324 | 500 | 3 |

    CiteSeer has 15 papers without words that no file describes; as is usual they get zero features and class 0, and
    belong to no split.
    Source: Yang, Cohen, Salakhutdinov, ICML 2016; the corpora: Sen et al., 2008. Licence not stated (LINQS).

    Raises:
        DataError: if a file cannot be had or is damaged.
    """
    import scipy.sparse

    dataset = _choose("name", name, {"cora": "planetoid", "citeseer": "planetoid", "pubmed": "planetoid_pubmed"})
    paths = {part: fetch(dataset, f"raw/ind.{name}.{part}") for part in ("y", "tx", "ty", "allx", "ally", "graph")}
    y, tx, ty, allx, ally, graph = (load_restricted_pickle(path) for path in paths.values())
    index_path = fetch(dataset, f"raw/ind.{name}.test.index")
    with reading(index_path):
        test = np.array(index_path.read_text().split(), dtype=np.int64)
    with reading(paths["graph"]):
        # Row i of tx belongs to paper test[i]; papers of the range that test does not list stay empty.
        n, known = int(test.max()) + 1, allx.shape[0]
        place = scipy.sparse.csr_matrix(
            (np.ones(len(test), np.float32), (test - known, np.arange(len(test)))), shape=(n - known, len(test))
        )
        features = scipy.sparse.vstack([allx, place @ tx], format="csr", dtype=np.float32)
        one_hot = np.zeros((n, ally.shape[1]), dtype=ally.dtype)
        one_hot[:known], one_hot[test] = ally, ty
        edges = np.array([(i, j) for i, others in graph.items() for j in others], dtype=np.int64).reshape(-1, 2).T
        masks = (_mask(n, np.arange(len(y))), _mask(n, len(y) + np.arange(PLANETOID_VALIDATION)), _mask(n, test))
        return CitationGraph(features, _undirected(edges, n), one_hot.argmax(axis=1), *masks)


def gnn_benchmark(name: Literal["cora", "citeseer"] = "cora") -> CitationGraph:
    """Cora (2,708 papers, 5,278 edges) and CiteSeer without its isolated papers (3,312, 4,536), without splits. The
    papers are in another order than Planetoid's.

    Source: Shchur et al., Pitfalls of Graph Neural Network Evaluation, 2018. MIT. 0.5 and 1.3 MB.

    Raises:
        DataError: if the file cannot be had or is damaged.
    """
    import scipy.sparse

    path = fetch("gnn_benchmark_npz", _choose("name", name, {"cora": "cora.npz", "citeseer": "citeseer.npz"}))
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        matrices = {}
        for key in ("adj", "attr"):
            parts = (arrays[f"{key}_data"], arrays[f"{key}_indices"], arrays[f"{key}_indptr"])
            matrices[key] = scipy.sparse.csr_matrix(parts, shape=tuple(arrays[f"{key}_shape"]), dtype=np.float32)
            matrices[key].check_format(full_check=True)
        edges = np.stack(matrices["adj"].nonzero()).astype(np.int64)
        labels = arrays["labels"].astype(np.int64)
        return CitationGraph(matrices["attr"], _undirected(edges, len(labels)), labels)


def _choose(argument: str, given: str, choices: dict[str, Any]) -> Any:
    if given not in choices:
        raise DataError(f"{argument} must be one of {', '.join(choices)}, got {given!r}")
    return choices[given]


def _read_text(path: Path) -> str:
    with reading(path):
        return path.read_text(encoding="utf-8")


def _read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """An array of bytes in the IDX format: 0, 0, 8 (unsigned byte), number of dimensions, then the big-endian sizes."""
    with reading(path), gzip.open(path) as file:
        content = file.read()
        header = 4 + 4 * dimensions
        if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
            raise ValueError(
                f"no IDX file of bytes with {dimensions} dimensions: it begins with {content[:4].hex(' ')}"
            )
        shape = np.frombuffer(content, ">u4", dimensions, offset=4).astype(np.int64)
        return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _read_time_series(path: Path, columns: tuple[str, ...]) -> TimeSeries:
    """A CSV file with a column `date` and the columns named."""
    with reading(path), path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if missing := [column for column in ("date", *columns) if column not in header]:
            raise ValueError(f"no column {', '.join(missing)} among {', '.join(header)}")
        table = [row for row in rows if row]
        if short := next((i for i, row in enumerate(table) if len(row) != len(header)), None):
            raise ValueError(f"row {short + 2} has {len(table[short])} fields, not {len(header)}")
        if not table:
            raise ValueError("no rows")
        places = [header.index(column) for column in columns]
        values = np.array([[row[place] for place in places] for row in table], dtype=np.float64)
        date = header.index("date")
        return TimeSeries(values, columns, np.array([row[date] for row in table], dtype="datetime64[s]"))


def _mask(n: int, index: np.ndarray) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[index] = True
    return mask


def _undirected(edges: np.ndarray, n: int) -> np.ndarray:
    """Both directions of each edge once, without loops, sorted by source and then target."""
    if edges.min(initial=0) < 0 or edges.max(initial=0) >= n:
        raise ValueError(f"an edge to a node outside 0 to {n - 1}")
    source, target = np.concatenate([edges, edges[::-1]], axis=1)
    keys = np.unique((source * n + target)[source != target])
    return np.stack([keys // n, keys % n])
