import numpy as np
import pytest
import torch

from mossformer2_impl import (
    DPRNN,
    FSMN,
    GCU,
    ConvTasNet,
    DilatedFSMN,
    FFConvM,
    JointAttention,
    MossFormer2,
    RecurrentModule,
    ScaleNorm,
    SepFormer,
    depthwise,
    depthwise_naive,
    load_official,
    overlap_add,
    rotate,
    separate,
)
from mossformer2_impl.baselines import _chunks, _joined
from mossformer2_impl.convolution import grouped
from mossformer2_impl.official import from_official, settings_of
from shared_impl.data import DataError
from shared_impl.pretrained import WeightsError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("frames", [1, 2, 5, 64, 301])
def test_depthwise_convolutions_equal_the_sum_over_taps(causal, dilation, frames):
    for dtype, atol in ((torch.float32, 1e-4), (torch.float64, 1e-11)):
        x = torch.randn(2, frames, 6, generator=generator(), dtype=dtype).requires_grad_()
        kernel = torch.randn(6, 7, generator=generator(1), dtype=dtype).requires_grad_()
        found = []
        for form in (depthwise_naive, depthwise):
            y = form(x, kernel, dilation=dilation, causal=causal)
            weight = torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)
            found.append((y, *torch.autograd.grad((y * weight).sum(), (x, kernel))))
        for ours, obvious in zip(*found, strict=True):
            assert torch.allclose(ours, obvious, atol=atol)


def test_gradients_of_kernels_are_summed_over_blocks(monkeypatch):
    monkeypatch.setattr("mossformer2_impl.convolution.BLOCK", 30)
    x, kernel = torch.randn(2, 40, 6, generator=generator()), torch.randn(6, 5, generator=generator())
    grads = []
    for form in (depthwise_naive, depthwise):
        held = kernel.clone().requires_grad_()
        form(x, held).square().sum().backward()
        grads.append(held.grad)
    assert torch.allclose(*grads, rtol=1e-4)


def test_grouped_convolutions_are_torchs():
    x, kernel = torch.randn(1, 30, 8, generator=generator()), torch.randn(4, 2, 5, generator=generator())
    by_torch = torch.nn.functional.conv1d(x.mT, kernel, padding=4, dilation=2, groups=4).mT
    assert torch.allclose(grouped(x, kernel, dilation=2), by_torch, atol=1e-5)


def test_an_ffconvm_is_norm_linear_silu_and_convolution():
    for norm in ("scale", "layer"):
        m = FFConvM(6, 10, norm=norm).eval()
        with torch.no_grad():
            for p in m.parameters():
                p.add_(torch.randn(p.shape, generator=generator()))
        x = torch.randn(2, 30, 6, generator=generator())
        y = torch.nn.functional.silu(m.linear(m.norm(x)))
        expected = y + m.conv(torch.nn.functional.pad(y.mT, (8, 8))).mT
        assert torch.allclose(m(x), expected, atol=1e-5)
    x = torch.tensor([[[3.0, 4.0]]])
    assert torch.allclose(ScaleNorm(2)(x), x / (5 / 2**0.5))


def test_the_rotary_code_turns_pairs_and_keeps_the_rest():
    x = torch.randn(1, 9, 4, 40, generator=generator()).double()
    y = rotate(x)
    assert torch.equal(y[..., 32:], x[..., 32:])
    assert torch.equal(y[:, 0], x[:, 0])
    turn = torch.polar(torch.ones(1), torch.tensor([7 / 10000 ** (2 / 32)]))
    pair = torch.view_as_complex(x[0, 7, 0, 2:4].float().contiguous()) * turn
    assert torch.allclose(torch.view_as_real(pair)[0], y[0, 7, 0, 2:4].float(), atol=1e-5)
    # inner products depend on the distance alone
    a, b = (rotate(v.expand(1, 9, 4, 40)) for v in x[:, :2, None].unbind(1))
    assert torch.allclose((a[0, 5] * b[0, 3]).sum(-1), (a[0, 8] * b[0, 6]).sum(-1), atol=1e-4)


def test_attention_in_both_forms_and_its_gates():
    m = JointAttention(16, 8, 10).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator()))
    x = torch.randn(2, 37, 16, generator=generator())
    fast = m(x)
    m.fast = False
    assert torch.allclose(m(x), fast, atol=1e-4)
    assert not torch.allclose(fast, x, atol=1e-2)


def test_groupings_differ_and_pair_what_they_say():
    torch.manual_seed(0)
    x = torch.randn(1, 50, 6)
    official, paired = DilatedFSMN(6, 3), DilatedFSMN(6, 3, grouping="paired")
    paired.load_state_dict(official.state_dict())
    assert not torch.allclose(official(x), paired(x), atol=1e-3)
    # the second layer's kernel of the projection is silenced: paired, every channel then hears the first layer
    with torch.no_grad():
        paired.convs[1].weight[:, 1] = 0
        official.convs[1].weight[:3] = 0
        official.norms[1].bias.zero_()
        paired.convs[0].weight.zero_()
        paired.norms[0].bias.zero_()
    assert torch.allclose(paired(x) - x, paired.norms[1].bias.expand_as(x), atol=1e-6)
    assert torch.allclose(official(x)[..., :3], x[..., :3], atol=1e-6)


def test_memory_without_gates_is_what_the_gates_let_through():
    torch.manual_seed(0)
    x = torch.randn(2, 30, 8)
    gcu = GCU(8, FSMN(8, 4)).eval()
    assert torch.allclose(gcu(x), gcu.to_v(x) * gcu.memory(gcu.to_u(x)) + x, atol=1e-5)
    for memory in ("gfsmn", "gfsmn-plain", "dfsmn", "fsmn", "blstm"):
        module = RecurrentModule(12, 8, 4, memory=memory)
        assert module(torch.randn(1, 5, 12)).shape == (1, 5, 12)


def test_models_train_and_repeat():
    for cls in (MossFormer2, ConvTasNet, DPRNN, SepFormer):
        torch.manual_seed(0)
        sizes = {"n_layers": 1, "group": 16, "d_qk": 8, "d_rec": 8} if cls is MossFormer2 else {}
        model = cls(n_filters=16, n_src=3, **sizes)
        out = model(torch.randn(2, 1000, generator=generator()))
        assert out.shape == (2, 3, 1000)
        out.square().sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters()), cls
        model.eval()
        wave = torch.randn(1, 333, generator=generator())
        assert torch.equal(model(wave), model(wave))


def test_chunks_that_overlap_join_to_twice_the_frames():
    x = torch.randn(2, 37, 3, generator=generator())
    assert torch.allclose(_joined(_chunks(x, 10), 37), 2 * x)


class Halves(torch.nn.Module):
    """Low and high samples of a mixture as its two speakers, in an order that changes from call to call."""

    n_src, sample_rate, stride = 2, 8000, 8

    def __init__(self):
        super().__init__()
        self.weight, self.calls = torch.nn.Parameter(torch.ones(1)), 0

    def forward(self, x):
        self.calls += 1
        parts = torch.stack([x.clamp(max=0), x.clamp(min=0)], 1)
        return parts.flip(1) if self.calls % 2 else parts


def test_chunks_keep_the_order_of_speakers():
    wave = torch.randn(2, 1000, generator=generator())
    found = overlap_add(Halves(), wave, 300)
    assert torch.allclose(found, torch.stack([wave.clamp(min=0), wave.clamp(max=0)], 1), atol=1e-6)
    whole = separate(Halves(), wave[0].numpy(), chunk_s=0.03)
    assert isinstance(whole, np.ndarray)
    assert np.allclose(whole.sum(0), wave[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 15, 16, 17, 23, 100, 4001])
@pytest.mark.parametrize("rate", [8000, 16000, 11025])
def test_any_length_and_rate_is_separated(samples, rate):
    model = MossFormer2.preset("tiny").train()
    wave = torch.randn(samples, generator=generator()) / 4
    found = model.separate(wave, rate, chunk_s=0.1)
    assert found.shape == (2, samples)
    assert torch.isfinite(found).all()
    assert model.training


def test_silence_stays_silent_and_the_last_samples_are_estimates():
    torch.manual_seed(0)
    model = MossFormer2.preset("tiny").eval().requires_grad_(False)
    assert float(model.separate(torch.zeros(500)).abs().max()) == 0
    wave = torch.randn(1, 21)
    assert float(model(wave)[..., 16:].abs().max()) == 0
    assert float(model.separate(wave)[..., 16:].abs().max()) > 0


BAD = [
    (np.zeros(0, np.float32), {}, "not empty"),
    (np.array([0.0, np.nan], np.float32), {}, "finite"),
    (np.zeros((1, 2, 3), np.float32), {}, r"\(batch, samples\)"),
    (torch.ones(5, dtype=torch.int64), {}, "floating"),
    (np.ones(5, np.float32), {"sr": 0}, "sr must be positive"),
    (np.ones(5, np.float32), {"chunk_s": 0.0}, "chunk_s must be positive"),
    (np.ones(5, np.float32), {"overlap": 1.0}, "overlap must be between"),
]


@pytest.mark.parametrize(("wave", "more", "message"), BAD)
def test_waves_that_cannot_be_separated_are_refused(wave, more, message):
    with pytest.raises(ValueError, match=message):
        separate(Halves(), wave, **more)


SETTINGS = [
    ({"n_src": 0}, "n_src must be positive"),
    ({"kernel": 15}, "kernel must be even"),
    ({"dropout": 1.0}, "dropout must be"),
    ({"n_filters": 63}, "d_model must be even"),
    ({"group": 0}, "group must be positive"),
    ({"recurrent": "none", "n_layers": 0}, "n_layers must be positive"),
    ({"d_rec": 7}, "d_rec must be even"),
]


@pytest.mark.parametrize(("more", "message"), SETTINGS)
def test_settings_out_of_range_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        MossFormer2.preset("tiny", **more)
    with pytest.raises(ValueError, match="name must be one of"):
        MossFormer2.preset("huge")
    for cls in (ConvTasNet, DPRNN, SepFormer):
        with pytest.raises(ValueError, match="kernel must be even"):
            cls(kernel=3)


# Public checkpoints --------------------------------------------------------------------------------------------------


def theirs(model, style="standalone"):
    """Our weights under their names and shapes."""
    state = {}
    for name, value in model.state_dict().items():
        flash, dual = ("mdl.flashT", "dual_mdl.0") if style == "standalone" else ("mossformerM", "mdl")
        stack = f"net.{dual}.intra_mdl.{flash}"
        normed = "mdl.norm.norm" if style == "standalone" else "norm"
        parts = name.split(".")
        if parts[0] == "encoder":
            key = "encoder.conv1d.weight"
        elif parts[0] == "decoder":
            key = "decoder.weight"
        elif parts[1] == "attention":
            tail = ".".join(parts[3:])
            tail = f"qk_offset_scale.{tail}" if tail in ("gamma", "beta") else tail
            key = f"{stack}.layers.{parts[2]}.{tail}"
        elif parts[1] == "recurrent":
            tail = ".".join(parts[3:]).replace("memory.memory.", "gated_fsmn.fsmn.")
            tail = (
                tail.replace("memory.to_", "gated_fsmn.to_").replace("into.", "conv1.0.").replace("out_of.", "conv2.")
            )
            tail = "conv1.1.weight" if tail == "prelu.weight" else tail
            for ours, name_of in (("convs", "conv"), ("norms", "norm"), ("slopes", "prelu")):
                if f".{ours}." in tail:
                    before, _, after = tail.partition(f".{ours}.")
                    number, _, kind = after.partition(".")
                    tail = f"{before}.conv.{name_of}{int(number) + 1}.{kind or 'weight'}"
            key = f"{stack}.fsmn.{parts[2]}.{tail}"
            value = value[..., None] if ".conv1.0.w" in key or ".conv2.w" in key or "fsmn.conv.conv" in key else value
        else:
            kind = parts[-1]
            key = {
                "norm_in": f"net.norm.{kind}", "into": "net.conv1d_encoder.weight",
                "position_scale": "net.pos_enc.scale",
                "norm_frames": f"net.{dual}.intra_mdl.{normed}.{kind}", "norm_out": f"net.{dual}.intra_norm.{kind}",
                "prelu": "net.prelu.weight", "split": f"net.conv1d_out.{kind}", "value": f"net.output.0.{kind}",
                "gate": f"net.output_gate.0.{kind}", "out_of": "net.conv1_decoder.weight",
            }[parts[1]]  # fmt: skip
            value = value[..., None] if value.ndim == 2 else value
        if parts[0] == "network" and parts[1] in ("attention", "recurrent"):
            for ours, place in (
                (".norm.", ".mdl.0."),
                (".linear.", ".mdl.1."),
                (".conv.w", ".mdl.3.sequential.1.conv.w"),
            ):
                if ".to_" in key:
                    key = key.replace(ours, place)
        if style == "standalone":
            key = "mask" + key if key.startswith("net.") else key
        else:
            for ours, place in (("net.", "mask_net."), ("encoder.", "enc."), ("decoder.", "dec.")):
                key = place + key.removeprefix(ours) if key.startswith(ours) else key
            key = f"module.{key}"
        state[key] = value
    state[f"{'masknet' if style == 'standalone' else 'mask_net'}.pos_enc.inv_freq"] = torch.ones(3)
    state["masknet.x.rotary_pos_emb.freqs"] = torch.ones(3)
    return state


@pytest.mark.parametrize("style", ["standalone", "clearer"])
def test_public_checkpoints_are_read(style, tmp_path):
    torch.manual_seed(0)
    model = MossFormer2.preset("tiny").eval()
    state = theirs(model, style)
    again = MossFormer2.preset("tiny").load_official(state).eval()
    wave = torch.randn(1, 500)
    assert torch.equal(model(wave), again(wave))
    assert settings_of(state) == {
        "n_src": 2, "n_filters": 64, "kernel": 16, "n_layers": 2, "d_qk": 64, "d_rec": 64, "lorder": 20,
    }  # fmt: skip
    torch.save({"model": state}, tmp_path / "model.pt")
    assert torch.equal(load_official(tmp_path / "model.pt", group=64)(wave), model(wave))
    if style == "standalone":
        for part in ("encoder", "decoder", "masknet"):
            own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
            torch.save(own, tmp_path / f"{part}.ckpt")
        assert torch.equal(load_official(tmp_path, group=64)(wave), model(wave))
        (tmp_path / "masknet.ckpt").unlink()
        with pytest.raises(DataError, match=r"masknet\.ckpt is missing"):
            load_official(tmp_path)


def test_checkpoints_of_another_kind_are_refused(tmp_path):
    ours = MossFormer2.preset("tiny").state_dict()
    state = theirs(MossFormer2.preset("tiny"))
    with pytest.raises(WeightsError, match=r"strange is none"):
        from_official({**state, "masknet.strange": torch.ones(1)}, ours)
    with pytest.raises(WeightsError, match="1 tensors are missing"):
        from_official({k: v for k, v in state.items() if k != "decoder.weight"}, ours)
    with pytest.raises(WeightsError, match="must have the shape"):
        from_official({**state, "decoder.weight": torch.ones(3)}, ours)
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x\.pt"):
        load_official(tmp_path / "x.pt")
    torch.save({"step": 3}, tmp_path / "y.pt")
    with pytest.raises(DataError, match="must hold tensors"):
        load_official(tmp_path / "y.pt")
    with pytest.raises(WeightsError, match="lacks"):
        settings_of({})


def test_models_are_saved_whole(tmp_path):
    model = MossFormer2.preset("tiny", mask=False, grouping="paired", sample_rate=16000).eval()
    model.save_pretrained(tmp_path)
    again = MossFormer2.from_pretrained(tmp_path)
    wave = torch.randn(1, 400)
    assert torch.equal(again(wave), model(wave))
    assert again.sample_rate == 16000
