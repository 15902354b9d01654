import pytest
import torch

from ptrnet_impl.official import blended_decode, checkout, from_shirgur

E, H = 5, 8


def weights(directions=1):
    """As the re-implementation names and shapes them."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    width = H // directions
    found = {"embedding.weight": draw(E, 2), "embedding.bias": draw(E), "decoder_input0": draw(E)}
    for end in ("", "_reverse")[:directions]:
        found |= {
            f"encoder.lstm.weight_ih_l0{end}": draw(4 * width, E),
            f"encoder.lstm.weight_hh_l0{end}": draw(4 * width, width),
            f"encoder.lstm.bias_ih_l0{end}": draw(4 * width),
            f"encoder.lstm.bias_hh_l0{end}": draw(4 * width),
        }
    return found | {
        "encoder.h0": draw(1),
        "decoder.input_to_hidden.weight": draw(4 * H, E),
        "decoder.input_to_hidden.bias": draw(4 * H),
        "decoder.hidden_to_hidden.weight": draw(4 * H, H),
        "decoder.hidden_to_hidden.bias": draw(4 * H),
        "decoder.hidden_out.weight": draw(H, 2 * H),
        "decoder.hidden_out.bias": draw(H),
        "decoder.att.V": draw(H),
        "decoder.att.input_linear.weight": draw(H, H),
        "decoder.att.input_linear.bias": draw(H),
        "decoder.att.context_linear.weight": draw(H, H, 1),
        "decoder.att.context_linear.bias": draw(H),
    }


@pytest.mark.parametrize("directions", [1, 2])
def test_transferred_weights_give_the_first_step_by_hand(directions):
    w = weights(directions)
    model = from_shirgur(w).double()
    x = torch.rand(2, 4, 2, dtype=torch.float64)
    memory, (h, c) = model.encode(x)
    gates = w["decoder_input0"] @ w["decoder.input_to_hidden.weight"].T + w["decoder.input_to_hidden.bias"]
    gates = gates + h[0] @ w["decoder.hidden_to_hidden.weight"].T + w["decoder.hidden_to_hidden.bias"]
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c[0] + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    keys = memory.encoded @ w["decoder.att.context_linear.weight"][..., 0].T + w["decoder.att.context_linear.bias"]
    query = h @ w["decoder.att.input_linear.weight"].T + w["decoder.att.input_linear.bias"]
    expected = (torch.tanh(keys + query[:, None]) @ w["decoder.att.V"]).softmax(-1)
    found = model(x, None, torch.zeros(2, 1, dtype=torch.long))[:, 0].exp()
    torch.testing.assert_close(found, expected)


def test_decoding_with_the_mixing_layer_gives_permutations():
    w = weights()
    mixing = torch.nn.Linear(2 * H, H).double()
    mixing.load_state_dict({k.removeprefix("decoder.hidden_out."): v for k, v in w.items() if "hidden_out" in k})
    probabilities, chosen = blended_decode(from_shirgur(w).double(), mixing, torch.rand(3, 5, 2, dtype=torch.float64))
    assert (chosen.sort(1).values == torch.arange(5)).all()
    torch.testing.assert_close(probabilities.sum(2), torch.ones(3, 5, dtype=torch.float64))
    assert (probabilities.argmax(2) == chosen).all()


def test_weights_of_something_else_are_refused():
    w = weights()
    with pytest.raises(ValueError, match=r"decoder\.att\.V is missing"):
        from_shirgur({name: x for name, x in w.items() if name != "decoder.att.V"})
    with pytest.raises(ValueError, match="one encoder layer"):
        from_shirgur({**w, "encoder.lstm.weight_ih_l1": w["decoder.att.V"]})


def test_without_the_variable_there_is_no_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("PTRNET_OFFICIAL_DIR", raising=False)
    assert checkout() is None
    monkeypatch.setenv("PTRNET_OFFICIAL_DIR", str(tmp_path))
    assert checkout() is None
    (tmp_path / "PointerNet.py").write_text("")
    assert checkout() == tmp_path
