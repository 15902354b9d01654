import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gla_impl import gla_recurrent, load_fla
from gla_impl.official import fla_config, fla_weights

D, HEADS, LAYERS, WIDTH, VOCABULARY = 32, 2, 2, 48, 19
CONFIG = {
    "hidden_size": D, "num_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": WIDTH,
    "model_type": "gla", "vocab_size": VOCABULARY, "expand_k": 0.5, "expand_v": 1, "norm_eps": 1e-6, "fuse_norm": True,
}  # fmt: skip


def weights():
    shapes = {"model.embeddings.weight": (VOCABULARY, D), "model.norm.weight": (D,), "lm_head.weight": (VOCABULARY, D)}
    for layer in range(LAYERS):
        parts = {
            "attn_norm.weight": (D,), "attn.q_proj.weight": (D // 2, D), "attn.k_proj.weight": (D // 2, D),
            "attn.v_proj.weight": (D, D), "attn.g_proj.weight": (D, D), "attn.gk_proj.0.weight": (16, D),
            "attn.gk_proj.1.weight": (D // 2, 16), "attn.gk_proj.1.bias": (D // 2,),
            "attn.g_norm_swish_gate.weight": (D // HEADS,), "attn.o_proj.weight": (D, D), "mlp_norm.weight": (D,),
            "mlp.gate_proj.weight": (WIDTH, D), "mlp.up_proj.weight": (WIDTH, D), "mlp.down_proj.weight": (D, WIDTH),
        }  # fmt: skip
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in parts.items()}
    return {name: 0.5 * torch.randn(shape) for name, shape in shapes.items()}


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def reference(w, ids):
    """The model in the words of the original's parameter names."""
    x = w["model.embeddings.weight"][ids]
    for layer in range(LAYERS):
        p = {
            n.removeprefix(f"model.layers.{layer}."): v for n, v in w.items() if n.startswith(f"model.layers.{layer}.")
        }
        h = norm(x, p["attn_norm.weight"])
        q, k, v, g = (F.linear(h, p[f"attn.{n}_proj.weight"]).unflatten(-1, (HEADS, -1)) for n in "qkvg")
        gk = F.linear(F.linear(h, p["attn.gk_proj.0.weight"]), p["attn.gk_proj.1.weight"], p["attn.gk_proj.1.bias"])
        log_alpha = F.logsigmoid(gk).unflatten(-1, (HEADS, -1)) / 16
        o, _ = gla_recurrent(q * (D // 2 // HEADS) ** -0.5, k, v, log_alpha)
        o = norm(o, p["attn.g_norm_swish_gate.weight"]) * F.silu(g)
        x = x + F.linear(o.flatten(-2), p["attn.o_proj.weight"])
        h = norm(x, p["mlp_norm.weight"])
        hidden = F.silu(F.linear(h, p["mlp.gate_proj.weight"])) * F.linear(h, p["mlp.up_proj.weight"])
        x = x + F.linear(hidden, p["mlp.down_proj.weight"])
    return F.linear(norm(x, w["model.norm.weight"]), w["lm_head.weight"])


@pytest.mark.parametrize("layout", ["separate", "fused", "sharded"])
def test_a_checkpoint_of_the_original_computes_what_it_did_there(tmp_path, layout):
    w = weights()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    ids = torch.randint(VOCABULARY, (2, 30))
    expected = reference(w, ids)
    if layout == "fused":
        for layer in range(LAYERS):
            mlp = f"model.layers.{layer}.mlp."
            w[mlp + "gate_proj.weight"] = torch.cat([w[mlp + "gate_proj.weight"], w.pop(mlp + "up_proj.weight")])
    names = sorted(w)
    shards = [names[:10], names[10:]] if layout == "sharded" else [names]
    for number, shard in enumerate(shards):
        save_file({name: w[name] for name in shard}, tmp_path / f"model-{number}.safetensors")
    torch.testing.assert_close(load_fla(tmp_path)(ids).logits, expected, rtol=1e-3, atol=1e-3)


def test_the_published_340m_configuration_is_understood():
    config = fla_config(
        {"hidden_size": 1024, "num_heads": 4, "num_hidden_layers": 24, "vocab_size": 32000, "hidden_ratio": 4}
    )
    assert (config.feedforward_width, config.d_model, config.norm_eps) == (2816, 1024, 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_short_conv": True}, "use_short_conv must be False, got True"),
        ({"num_kv_heads": 1}, "num_kv_heads must be 2"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings must be False"),
    ],
)
def test_parts_that_are_not_here_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        fla_config({**CONFIG, **change})


def test_missing_and_unknown_weights_are_named(tmp_path):
    w = weights()
    with pytest.raises(ValueError, match=r"weight 'model.layers.0.attn.q_conv1d.weight' is not one"):
        fla_weights({**w, "model.layers.0.attn.q_conv1d.weight": torch.zeros(1)})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(FileNotFoundError, match="no safetensors"):
        load_fla(tmp_path)
    w.pop("lm_head.weight")
    save_file(w, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit its own config.json"):
        load_fla(tmp_path)
