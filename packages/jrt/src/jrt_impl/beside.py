"""Modules of a checkout of the authors' code, with the same weights and inputs as ours."""

import contextlib
import io
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .layers import BaseConv, BasedLayer, PrefixLinearAttention
from .loss import jrt_loss

__all__ = ["CHECKOUT", "Official", "checkout"]

CHECKOUT = "JRT_OFFICIAL_DIR"
"""environment variable: a checkout of HazyResearch/prefix-linear-attention"""


def checkout() -> Path | None:
    """The folder of the checkout, if the variable names one that is there."""
    folder = os.environ.get(CHECKOUT)
    return Path(folder) if folder and (Path(folder) / _PLA).is_file() else None


_PLA = "based/models/mixers/prefix_linear_attention.py"
_CONV = "based/models/mixers/convolution.py"
_LOSS = "train/src/tasks/seq.py"
_SYNTHETIC = "synthetic/zoology/mixers"
_MAPS = "zoology.mixers.feature_maps"
_PROMPTS = {
    "fda": ("based_fda", "FDA"), "swde": ("based_swde", "SWDE"), "squad": ("based_squadv2", "BasedSQUADCompletion"),
    "nq": ("based_nq", "BasedNQ512"), "triviaqa": ("based_triviaqa", "BasedTriviaQA"),
    "drop": ("based_drop", "BasedDrop"),
}  # fmt: skip


class Official:
    """The parts of a checkout that run without a GPU, each loaded by its file.

    What they import for training on clusters is stood in for by empty modules while they load; one character of
    `synthetic/zoology/mixers/based.py` that Python does not accept (`q. *`) is left out.

    Raises:
        ImportError: if einops is not installed.
    """

    def __init__(self, folder: Path) -> None:
        import einops  # noqa: F401 - the authors' modules need it, and say so less clearly

        self.folder = folder
        with _stand_ins({"train": {}, "train.src": {}, "train.src.generation": {"InferenceParams": object}}):
            self.pla, self.conv = self._load(_PLA), self._load(_CONV)
        names: dict[str, dict[str, Any]] = {
            "opt_einsum": {}, "zoology": {}, "zoology.utils": {"import_from_str": None}, "zoology.mixers": {},
            _MAPS: {"__path__": []},
        }  # fmt: skip
        for name in ("base", "taylor"):
            with _stand_ins(names):
                names[f"{_MAPS}.{name}"] = vars(self._load(f"{_SYNTHETIC}/feature_maps/{name}.py", package=_MAPS))
        self._zoology = names
        with _stand_ins(names):
            self.synthetic_causal = self._load(f"{_SYNTHETIC}/based.py")
            self.synthetic_prefix = self._load(f"{_SYNTHETIC}/jrt_based.py")

    def layer(self, d_model: int, heads: int, prefix_len: int) -> tuple[nn.Module, PrefixLinearAttention]:
        """Their prefix layer and ours, with equal weights."""
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = self.pla.PrefixLinearAttention(d_model, num_heads=heads, enc_length=prefix_len, layer_idx=0)
        ours = PrefixLinearAttention(d_model, heads, prefix_len=prefix_len)
        ours.load_state_dict(theirs.state_dict())
        return theirs, ours

    def parity(self, *, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
        """By case, our result and theirs."""
        torch.manual_seed(seed)
        x, mask = torch.randn(2, 50, 32), torch.arange(18).expand(2, 18) >= 5
        theirs, ours = self.layer(32, 2, 20)
        cases = {"prefix layer": (ours(x)[0], theirs(x))}
        gradients = []
        for layer, call in ((ours, lambda: ours(x)[0]), (theirs, lambda: theirs(x))):
            layer.zero_grad()
            call().square().sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for _, p in sorted(layer.named_parameters())]))  # type: ignore[union-attr]
        cases["its gradients"] = (gradients[0], gradients[1])
        reading = _inference()
        with torch.no_grad():
            read, state = ours(x[:, :30])
            cases["its prefill"] = (read, theirs(x[:, :30], inference_params=reading))
            reading.seqlen_offset, steps = 30, []
            for i in range(30, 40):
                y, state = ours.step(x[:, i], state)
                steps.append((y, theirs(x[:, i : i + 1], inference_params=reading)[:, 0]))
            cases["ten steps after it"] = (torch.stack([a for a, _ in steps]), torch.stack([b for _, b in steps]))
            ours.compat = "official"
            cases["left padding, compat"] = (
                ours(x[:, :18], None, mask)[0], theirs(x[:, :18], inference_params=_inference(mask)),
            )  # fmt: skip
            conv, mine = self.conv.BaseConv(32, 64, expand_proj=4), BaseConv(32)
            mine.load_state_dict({key.replace("conv.conv", "conv"): t for key, t in conv.state_dict().items()})
            cases["gated convolution"] = (mine(x)[0], conv(x))
            causal, based = self._synthetic(self.synthetic_causal, BasedLayer(32, 2, feature_dim=8))
            causal.train_view = "linear"
            cases["synthetic causal layer, linear view"] = (based(x)[0], causal(x))
            prefix, shared = self._synthetic(
                self.synthetic_prefix, PrefixLinearAttention(32, 2, feature_dim=8, projections="shared")
            )
            cases["synthetic prefix layer"] = (shared(x)[0], prefix(x))
        logits, labels = torch.randn(2, 30, 40), torch.randint(40, (2, 30))
        labels[:, :20] = labels[:, :20].masked_fill(torch.rand(2, 20) > 0.3, -100)
        cases["two-part loss, compat"] = (
            jrt_loss(logits, labels, 20, compat="official"), self._loss(logits, labels, 20),
        )  # fmt: skip
        return cases

    def effects(self, *, seed: int = 0) -> dict[str, float]:
        """What each defect of the authors' code changes, as the largest difference of an output."""
        torch.manual_seed(seed)
        x, mask = torch.randn(2, 50, 32), torch.arange(18).expand(2, 18) >= 5
        theirs, ours = self.layer(32, 2, 20)
        with torch.no_grad():
            padded = theirs(x[:, :18], inference_params=_inference(mask)) - ours(x[:, :18], None, mask)[0]
            causal, based = self._synthetic(self.synthetic_causal, BasedLayer(32, 2, feature_dim=8))
            quadratic = causal(x) - based(x)[0]
        return {
            "left padding counts in sums and denominator": float(padded[:, 5:].abs().max()),
            "synthetic causal layer divides by its own term only": float(quadratic.abs().max()),
        }

    def equal_prompts(
        self, task: str, ours: Callable[[str, Mapping[str, Any], int], str], fields: Sequence[str], *, seed: int = 0
    ) -> float:
        """Share of random documents whose prompts, read once and twice, are the same strings."""
        folder, name = _PROMPTS[task]
        task_class = type("ConfigurableTask", (), {})
        stand_ins: dict[str, dict[str, Any]] = {
            "lm_eval": {}, "lm_eval.api": {}, "lm_eval.api.task": {"ConfigurableTask": task_class},
            "lm_eval.api.instance": {"Instance": object}, "datasets": {},
        }  # fmt: skip
        with _stand_ins(stand_ins):
            module = self._load(f"lm-eval-harness/lm_eval/tasks/{folder}/task.py")
        once: Any = getattr(module, name)
        twice: Any = getattr(module, name.replace("512", "Twice512") if "512" in name else f"{name}Twice")
        rng, equal, count = random.Random(seed), 0, 200
        pieces = ("a text", "Foo. ", ".", "\n", " ", "name:", "Name:", "who?", "[PAR]", _CUT, "Question: who?", " . ")
        for _ in range(count):
            text = "w" + "".join(rng.choice(pieces) for _ in range(rng.randint(1, 8)))
            row = {
                "text": text, "key": rng.choice(("name", "Name")), "value": "v", "context": text, "answers": ["v"],
                "question": rng.choice(("who?", " Who? ", "what is:")), "orig_question": rng.choice(("who?", "what:")),
            }  # fmt: skip
            row = {field: row[field] for field in fields}
            for repeats, cls in ((1, once), (2, twice)):
                equal += ours(task, row, repeats) == cls.__new__(cls).doc_to_text(dict(row))
        return equal / (2 * count)

    def _synthetic(self, module: Any, ours: BasedLayer) -> tuple[Any, BasedLayer]:
        # it looks for its feature map when a layer is made
        with contextlib.redirect_stdout(io.StringIO()), _stand_ins(self._zoology):
            theirs = module.Based(
                32, l_max=64, feature_dim=8, num_key_value_heads=2, num_heads=2, train_view="quadratic",
                apply_rotary=False,
            )  # fmt: skip
        ours.load_state_dict({key.replace("proj_o", "out_proj"): t for key, t in theirs.state_dict().items()})
        return theirs, ours

    def _loss(self, logits: Tensor, labels: Tensor, prefix_len: int) -> Tensor:
        empty: dict[str, dict[str, Any]] = {
            "hydra": {}, "torchmetrics": {"MetricCollection": None}, "omegaconf": {"OmegaConf": None},
            "pytorch_lightning": {"LightningModule": object, "LightningDataModule": object}, "src": {},
            "src.utils": {}, "src.utils.utils": {"get_logger": lambda name: None}, "src.optim": {},
            "src.optim.param_grouping": {"group_parameters_for_optimizer": None},
            "src.utils.checkpoint": {"load_checkpoint": None},
        }  # fmt: skip
        with _stand_ins(empty):
            module = self._load(_LOSS)
        model = SimpleNamespace(
            forward=lambda x, mask: SimpleNamespace(logits=logits), data_type="mixed", enc_length=prefix_len,
            loss_fn=nn.CrossEntropyLoss(), cfg=SimpleNamespace(mlm_weight=0.25),
        )  # fmt: skip
        loss: Tensor = module.SequenceLMModel.step(model, (labels, labels))[0]
        return loss

    def _load(self, file: str, *, package: str = "") -> ModuleType:
        source = (self.folder / file).read_text(encoding="utf-8").replace("(q. *", "(q *")
        module = ModuleType(Path(file).stem)
        vars(module)["__package__"] = package
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(source, file, "exec"), vars(module))
        return module


_CUT = "Summary of information above..."


def _inference(mask: Tensor | None = None) -> SimpleNamespace:
    return SimpleNamespace(seqlen_offset=0, mask=mask, key_value_memory_dict={})


@contextlib.contextmanager
def _stand_ins(names: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Modules of these names and contents, for as long as it lasts."""
    before = {name: sys.modules.get(name) for name in names}
    for name, contents in names.items():
        module = ModuleType(name)
        vars(module).update({key: value for key, value in contents.items() if key == "__path__" or key[:2] != "__"})
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
