"""The authors' weights in our network: the same layer written with torch's own modules gives the same."""

import pytest
import torch
from torch import nn

from tabpfn_impl.official import from_official
from tabpfn_impl.transformer import PFNTransformer


def state_of(encoder, y_encoder, layers, decoder):
    state = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"y_encoder.{k}": v for k, v in y_encoder.state_dict().items()}
    state |= {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    for i, layer in enumerate(layers):
        state |= {f"transformer_encoder.layers.{i}.{k}": v for k, v in layer.state_dict().items()}
    return state


def test_the_network_of_torchs_modules_gives_the_same_with_the_same_weights():
    torch.manual_seed(0)
    E, H, features, n_train = 16, 2, 6, 7
    encoder, y_encoder = nn.Linear(features, E), nn.Linear(1, E)
    layers = [
        nn.TransformerEncoderLayer(E, H, 32, dropout=0.0, activation="gelu", batch_first=True).train() for _ in range(2)
    ]
    decoder = nn.Sequential(nn.Linear(E, 32), nn.GELU(), nn.Linear(32, 3))
    x, y = torch.randn(2, 11, features), torch.randint(0, 3, (2, n_train))
    h = encoder(x)
    h = torch.cat([h[:, :n_train] + y_encoder(y.float()[:, :, None]), h[:, n_train:]], 1)
    forbidden = ~(torch.arange(11) < n_train).expand(11, 11)
    for layer in layers:
        h = layer(h, src_mask=forbidden)
    expected = decoder(h[:, n_train:])
    ours = PFNTransformer(max_features=features, max_classes=3, d_model=E, n_layers=2, n_heads=H, d_ff=32)
    ours.load_state_dict(from_official(state_of(encoder, y_encoder, layers, decoder)))
    torch.testing.assert_close(ours(x, y), expected, atol=1e-5, rtol=1e-5)


def test_what_is_of_no_network_of_the_paper_is_named():
    with pytest.raises(ValueError, match=r"global_att_embeddings\.weight"):
        from_official({"global_att_embeddings.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="norm3"):
        from_official({"transformer_encoder.layers.0.norm3.weight": torch.zeros(1)})
    assert from_official({"criterion.weight": torch.zeros(1)}) == {}
