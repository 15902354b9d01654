"""What is timed against what, declared."""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision, module_from_file
from shared_impl.results import Row

from .classifier import SpikingClassifier
from .models import small_conv
from .network import SpikingNet
from .official import CHECKOUT, checkout, from_official

__all__ = ["BENCHMARKS", "peer_step"]


def _net(size: int, seed: int, width: int = 16) -> tuple[nn.Sequential, SpikingNet]:
    torch.manual_seed(seed)
    ann = small_conv(size=size, width=width)
    return ann.eval(), SpikingNet.from_ann(ann, [torch.randn(64, 1, size, size)], T=5, calibration_steps=5)


def _trainer(forward: Callable[[], Tensor], y: Tensor, parameters: Any) -> Callable[[], None]:
    params = [p for p in parameters if p.requires_grad]

    def step() -> None:
        for p in params:
            p.grad = None
        F.cross_entropy(forward(), y).backward()  # type: ignore[no-untyped-call]

    return step


def peer_step(name: str, net: SpikingNet, x: Tensor, T: int) -> tuple[Callable[[], Tensor], nn.Module]:
    """The same network of a peer's neurons, in the peer's own way through the steps.

    Raises:
        ImportError: if the peer is not installed.
    """
    plain = net.to_single_step()
    layers: list[nn.Module] = []
    neurons = iter(net.neurons())
    if name == "spikingjelly":
        neuron = importlib.import_module("spikingjelly.activation_based.neuron")
        surrogate = importlib.import_module("spikingjelly.activation_based.surrogate")
        functional = importlib.import_module("spikingjelly.activation_based.functional")
        layer = importlib.import_module("spikingjelly.activation_based.layer")
        for part in plain:
            if type(part).__name__ == "BinaryActivation":
                v = float(next(neurons).threshold.detach())
                layers.append(
                    neuron.IFNode(
                        v, v_reset=None, surrogate_function=surrogate.ATan(), step_mode="m", detach_reset=True
                    )
                )
            else:
                layers.append(layer.SeqToANNContainer(part))
        model = nn.Sequential(*layers)

        def forward() -> Tensor:
            functional.reset_net(model)
            return model(x.unsqueeze(0).expand(T, *x.shape)).sum(0)

        return forward, model
    snntorch = importlib.import_module("snntorch")
    gradient = importlib.import_module("snntorch.surrogate").atan()
    for part in plain:
        if type(part).__name__ == "BinaryActivation":
            v = float(next(neurons).threshold.detach())
            layers.append(
                snntorch.Leaky(beta=1.0, threshold=v, spike_grad=gradient, init_hidden=True, reset_delay=False)
            )
        else:
            layers.append(part)
    stepped = nn.Sequential(*layers)

    def loop() -> Tensor:
        for part in layers:
            if isinstance(part, snntorch.Leaky):
                part.reset_mem()
        return torch.stack([stepped(x) for _ in range(T)]).sum(0)

    return loop, stepped


def training(setting: Setting) -> Iterator[Case | str]:
    """A training step (forward and backward) for numbers of steps."""
    size = 8 if setting.quick else 16
    _, net = _net(size, setting.seed)
    net = net.to(setting.device).train()
    x = torch.randn(64, 1, size, size, device=setting.device)
    y = torch.randint(0, 10, (64,), device=setting.device)
    peers = []
    for name in ("spikingjelly", "snntorch"):
        try:
            importlib.import_module(name)
            peers.append(name)
        except ImportError:
            yield f"{name} is not installed and was not timed"
    for T in (2,) if setting.quick else (1, 2, 5, 10):
        forms = {
            "step loop": _trainer(lambda T=T: net.forward_reference(x, T), y, net.parameters()),
            "fused": _trainer(lambda T=T: net(x, T), y, net.parameters()),
        }
        for name in peers:
            forward, model = peer_step(name, net, x, T)
            forms[name] = _trainer(forward, y, model.to(setting.device).parameters())
        yield Case(f"T = {T}", forms, baseline="step loop", size=T)


def inference(setting: Setting) -> Iterator[Case]:
    """One step against the ReLU network whose batch norm is folded, and against the plain binary network."""
    from .architecture import fold_batch_norm

    for size in (8,) if setting.quick else (16, 32):
        ann, net = _net(size, setting.seed)
        plain, folded = net.to_single_step().to(setting.device), fold_batch_norm(ann).eval().to(setting.device)
        net = net.eval().to(setting.device)
        x = torch.randn(256, 1, size, size, device=setting.device)

        def no_grad(model: nn.Module, x: Tensor = x) -> Callable[[], Tensor]:
            def call() -> Tensor:
                with torch.no_grad():
                    return model(x)

            return call

        forms = {
            "ReLU network": no_grad(folded),
            "SpikingNet, T = 1": no_grad(lambda x, net=net: net(x, 1)),  # type: ignore[arg-type]
            "to_single_step": no_grad(plain),
        }
        yield Case(f"{size} × {size} pixels", forms, baseline="ReLU network", size=size, rounds=15)


def still_image(setting: Setting) -> Iterator[Case]:
    """Inference with the first layer computed once, against every step."""
    _, net = _net(8 if setting.quick else 16, setting.seed)
    net = net.eval().to(setting.device)
    x = torch.randn(128, 1, 8 if setting.quick else 16, 8 if setting.quick else 16, device=setting.device)
    for T in (2,) if setting.quick else (2, 5, 10):

        def every(T: int = T) -> Tensor:
            with torch.no_grad():
                return net._run(net.layers, x.unsqueeze(0).expand(T, *x.shape), T).sum(0)

        def once(T: int = T) -> Tensor:
            with torch.no_grad():
                return net(x, T)

        yield Case(f"T = {T}", {"every step": every, "once": once}, baseline="every step", size=T)


@contextmanager
def _on_the_cpu() -> Iterator[None]:
    """The authors' code moves what it makes to a GPU unconditionally; here that does nothing."""
    moved = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = moved  # type: ignore[method-assign]


OFFICIAL = {
    "VGG9": ("vgg_spiking_bnfused_biasyes", "VGG_SNN_STDB"),
    "VGG16": ("vgg_spiking_bnfused_biasyes", "VGG_SNN_STDB"),
    "VGG16, no bias": ("vgg_spiking_mem_new", "VGG_SNN_STDB"),
    "ResNet20": ("resnet_spiking_bnfused_biasconv", "RESNET_SNN_STDB"),
}


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """The authors' networks and ours: equal weights, logits, thresholds, gradients; then a training step."""
    folder = checkout()
    if folder is None:
        yield Row("SayeedChowdhury/IIR-SNN", "ours", "compared", 0.0, note=f"{CHECKOUT} names no checkout")
        yield f"set {CHECKOUT} to a checkout of SayeedChowdhury/IIR-SNN"
        return
    yield f"SayeedChowdhury/IIR-SNN at {checkout_revision(folder)}, unchanged, its .cuda() calls doing nothing"
    for label, (file, cls) in OFFICIAL.items():
        if setting.quick and label != "VGG9":
            continue
        name = label.partition(",")[0]
        with _on_the_cpu(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from _beside(setting, folder, label, name, file, cls)


def _beside(setting: Setting, folder: Path, label: str, name: str, file: str, cls: str) -> Iterator[Case | Row | str]:
    x = torch.randn(2 if setting.quick else 8, 3, 32, 32, generator=torch.Generator().manual_seed(setting.seed))
    for dtype in (torch.float32, torch.float64):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            theirs = _theirs(folder, file, cls, name, setting.seed)
            ours = from_official(theirs.state_dict(), name)
            image = x.to(dtype)
            for T in (1,) if setting.quick else (1, 5):
                theirs.network_update(T, 1.0)
                for network in (theirs, ours):
                    network.zero_grad()
                wanted, found = theirs(image), ours(image, T)
                loss = [F.cross_entropy(logits, torch.arange(len(x)) % 10) for logits in (wanted, found)]
                loss[0].backward(), loss[1].backward()  # type: ignore[no-untyped-call]
                far = float((wanted - found).abs().max().detach())
                where = f"{label}, T = {T}, {str(dtype).removeprefix('torch.')}"
                yield Row(where, "ours", "largest difference of a logit", far, higher_is_better=False)
                yield Row(
                    where, "ours", "of a gradient, relative", _gradients_apart(theirs, ours), higher_is_better=False
                )
            if name == "VGG9" and dtype == torch.float64:
                yield _thresholds(theirs, ours, image, label)
        finally:
            torch.set_default_dtype(before)
    if name != "VGG9":
        return  # one training step of VGG16 takes minutes
    T = 1 if setting.quick else 5
    theirs = _theirs(folder, file, cls, name, setting.seed)
    theirs.network_update(T, 1.0)
    ours = from_official(theirs.state_dict(), name)
    y = torch.arange(len(x)) % 10
    forms = {
        "theirs": _trainer(lambda: theirs(x), y, theirs.parameters()),
        "ours": _trainer(lambda: ours(x, T), y, ours.parameters()),
    }
    yield Case(f"{label}, training step, T = {T}", forms, baseline="theirs", rounds=5)


def _theirs(folder: Path, file: str, cls: str, name: str, seed: int) -> Any:
    sys.path.insert(0, str(folder))
    try:
        module = module_from_file(folder / f"{file}.py", f"official_{file}")
    finally:
        sys.path.remove(str(folder))
    torch.manual_seed(seed)
    given = name.lower() if name == "ResNet20" else name
    network = getattr(module, cls)(given, labels=10, timesteps=1, dropout=0.0, leak=0.9)
    for i, threshold in enumerate(network.threshold.values()):
        threshold.data.fill_(0.1 + 0.01 * i)
    return network


def _gradients_apart(theirs: Any, ours: SpikingNet) -> float:
    number = lambda key: int(key[1:])  # noqa: E731
    wanted = [p.grad for key, p in theirs.named_parameters() if not key.startswith(("threshold", "leak"))]
    wanted += [theirs.threshold[key].grad for key in sorted(theirs.threshold.keys(), key=number)]
    wanted += [theirs.leak[key].grad for key in sorted(theirs.leak.keys(), key=number)]
    found = [p.grad for key, p in ours.named_parameters() if not key.endswith(("threshold", "leak"))]
    found += [layer.threshold.grad for layer in ours.neurons()] + [layer.leak.grad for layer in ours.neurons()]
    apart = 0.0
    for a, b in zip(wanted, found, strict=True):
        assert b is not None
        if a is None:  # no step in which it would be read
            apart = max(apart, float(b.abs().max()))
        else:
            apart = max(apart, float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)))
    return apart


@torch.no_grad()
def _thresholds(theirs: Any, ours: SpikingNet, x: Tensor, label: str) -> Row:
    """Both conversions on one batch: `find_threshold` as the script has it, layer after layer, and `calibrate`."""
    theirs.network_update(20, 1.0)
    for leak in theirs.leak.values():
        leak.fill_(1.0)
    found: list[float] = []
    weighted = [i for i, m in enumerate(theirs.features) if isinstance(m, nn.Conv2d)]
    linear = [i for i, m in enumerate(theirs.classifier) if isinstance(m, nn.Linear)][:-1]
    for place in [*weighted, *(len(theirs.features) + i for i in linear)]:
        found.append(float(theirs(x, find_max_mem=True, max_mem_layer=place, percentile=90.0)) or 0.1)
        theirs.threshold_update(scaling_factor=1.0, thresholds=found[:])
    apart = max(abs(a - b) for a, b in zip(found, ours.calibrate(x, 90.0, steps=20), strict=True))
    return Row(label, "ours", "largest difference of a calibrated threshold", apart, higher_is_better=False)


def defaults(setting: Setting) -> Iterator[Row | str]:
    """`SpikingClassifier()` on small sets: accuracy in one step on a third held out, and what needs no spikes."""
    from sklearn import datasets
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sets: dict[str, tuple[Any, tuple[int, int, int] | None]] = {
        "iris, 150 rows": (datasets.load_iris(return_X_y=True), None),
        "wine, 178 rows": (datasets.load_wine(return_X_y=True), None),
        "breast cancer, 569 rows": (datasets.load_breast_cancer(return_X_y=True), None),
        "moons, 200 rows": (datasets.make_moons(200, noise=0.15, random_state=setting.seed), None),
        "36 rows, 5 features": (
            datasets.make_classification(36, 5, n_informative=3, class_sep=2.0, random_state=setting.seed), None,
        ),
        "digits, 600 rows as 8 x 8": (
            tuple(part[:600] for part in datasets.load_digits(return_X_y=True)), (1, 8, 8),
        ),
    }  # fmt: skip
    for label, ((X, y), how) in list(sets.items())[: 2 if setting.quick else None]:
        parts = train_test_split(X, y, test_size=1 / 3, random_state=setting.seed, stratify=y)
        model = SpikingClassifier(image_shape=how, steps=20 if setting.quick else 600)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model.fit(parts[0], parts[2])
        warned = "warned" if any(issubclass(w.category, UserWarning) for w in said) else ""
        frequent = float((parts[3] == max(set(parts[2]), key=list(parts[2]).count)).mean())
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(parts[0], parts[2])
        for name, score in (
            ("SpikingClassifier()", float(model.score(parts[1], parts[3]))),
            ("logistic regression", float(linear.score(parts[1], parts[3]))),
            ("most frequent class", frequent),
        ):
            yield Row(label, name, "accuracy", score, note=warned if name == "SpikingClassifier()" else "")


BENCHMARKS: Mapping[str, Benchmark] = {
    "training": Benchmark("A training step", training, xlabel="time steps"),
    "inference": Benchmark("Inference in one step", inference, xlabel="pixels a side"),
    "still": Benchmark("The still image's layer once", still_image, xlabel="time steps"),
    "official": Benchmark("Beside the authors' code", official),
    "defaults": Benchmark("SpikingClassifier as it comes", defaults),
}
