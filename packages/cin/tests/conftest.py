import wave

import numpy as np
import pytest
import torch

from shared_impl.testing import check_shapes

check_shapes("cin_impl")


@pytest.fixture(scope="session")
def assert_one_network():
    from cin_impl import initial_state, step

    def check(module, shape, tolerance=1e-12, dtype=torch.float64):
        """Clip, steps, several steps and functional steps give the same, and None where they should."""
        module = module.to(dtype).eval()
        x = torch.randn(shape, dtype=dtype)
        with torch.no_grad():
            clip = module(x)
        together = module.forward_steps(x, pad_end=True)
        assert together.shape == clip.shape
        assert (together - clip).abs().max() <= tolerance * (1 + clip.abs().max())
        module.clean_state()
        state, seen = initial_state(module, x[:, :, 0]), 0
        for t in range(shape[2]):
            y = module.forward_step(x[:, :, t])
            (pure, valid), state = step(module, None, state, x[:, :, t])
            due = t >= module.delay and (t - module.delay) % module.time_stride == 0
            assert (y is not None) == bool(valid) == due
            if y is not None:
                for value in (y, pure):
                    assert (value - clip[:, :, seen]).abs().max() <= tolerance * (1 + clip.abs().max())
                seen += 1
        module.clean_state()

    return check


@pytest.fixture(scope="session")
def write_wav():
    def write(path, samples, rate=8000):
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())

    return write
