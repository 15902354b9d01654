import pytest
import torch

from aaren_impl import Aaren, CausalTransformer, Stream

OPTIONS = [
    {},
    {"norm_first": True, "activation": "gelu", "positions": "sinusoidal"},
    {"query": "shared", "residual": False},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_stream_gives_what_forward_gives_and_goes_on_from_any_state(options, dtype):
    torch.manual_seed(0)
    model = Aaren(n_layers=2, d_model=8, n_heads=2, d_ff=16, **options).to(dtype).eval()
    x = torch.randn(3, 14, 8, dtype=dtype)
    oracle, final = model(x)
    tolerance = 1e-10 if dtype == torch.float64 else 0.1
    _, state = model(x[:, :5])
    for stream, part in ((Stream(model, 3), range(14)), (Stream(model, 3, state), range(5, 14))):
        for t in part:
            torch.testing.assert_close(stream(x[:, t]), oracle[:, t], rtol=tolerance, atol=tolerance)
        assert stream.state.position == 14
        for got, wanted in zip(stream.state.layers, final.layers, strict=True):
            for a, b in zip(got, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_a_token_that_is_refused_is_not_read():
    torch.manual_seed(0)
    model = Aaren(n_layers=2, d_model=8, n_heads=2, d_ff=16).eval()
    stream, x = Stream(model), torch.randn(1, 3, 8)
    stream(x[:, 0])
    for bad in (torch.full((1, 8), torch.nan), torch.full((1, 8), torch.inf)):
        with pytest.raises(ValueError, match="x_t must be finite"):
            stream(bad)
        with pytest.raises(ValueError, match="x must be finite"):
            model.step(bad)
        with pytest.raises(ValueError, match="must be finite"):
            model(bad.unsqueeze(1))
    torch.testing.assert_close(stream(x[:, 1]), model(x)[0][:, 1])


def test_what_cannot_be_streamed_is_named():
    model = Aaren(n_layers=1, d_model=8, n_heads=2, d_ff=16)
    with pytest.raises(ValueError, match="model must be an Aaren"):
        Stream.__init__.__wrapped__(Stream(model), CausalTransformer(d_model=8, n_heads=2))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Stream(model, 0)
    with pytest.raises(ValueError, match="state must be of batch 2"):
        Stream(model, 2, model.initial_state(3))
    with pytest.raises(ValueError, match="state must be of 1 layers"):
        Stream(model, 1, Aaren(n_layers=2, d_model=8, n_heads=2).initial_state(1))
    with pytest.raises(ValueError, match=r"x_t must be \(1, 8\)"):
        Stream(model)(torch.zeros(2, 8))
