"""Weights of the authors' code."""

import pytest
import torch

from s4_impl.layer import S4Layer
from s4_impl.official import from_official


@pytest.mark.parametrize("options", [{"mode": "dplr"}, {"mode": "diag", "init": "lin"}, {"n_ssm": 1, "channels": 2}])
def test_official_weights_give_the_layer_they_describe(options):
    torch.manual_seed(0)
    layer = S4Layer(4, d_state=6, l_max=16, **options)
    own = layer.state_dict()
    # The official names and layouts: dt with a state axis, B with a channel axis, positive frequencies.
    official = {
        "D": own["D"],
        "kernel.inv_dt": own["kernel.log_dt"].unsqueeze(-1),
        "kernel.A_real": own["kernel.log_decay"],
        "kernel.A_imag": -own["kernel.frequency"],
        "kernel.B": own["kernel.B"].unsqueeze(0),
        **{name: own[name] for name in ("kernel.C", "kernel.P", "kernel.l_kernel") if name in own},
    }
    torch.manual_seed(1)
    other = S4Layer(4, d_state=6, **options)
    other.load_state_dict(from_official(official))
    u = torch.randn(2, 16, 4)
    assert torch.equal(other(u)[0], layer(u)[0])


def test_what_has_no_place_is_refused():
    with pytest.raises(ValueError, match=r"unexpected entry 'output_linear\.0\.weight'"):
        from_official({"output_linear.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"kernel\.inv_dt must have shape \(d_model, 1\), got \(4, 8\)"):
        from_official({"kernel.inv_dt": torch.zeros(4, 8)})
