"""`S4Kernel`: the parameters of a bank of state spaces, and every form they can be used in."""

import math
from collections.abc import Collection
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from s4_impl.discretise import (
    DPLR,
    bilinear,
    bilinear_diagonal,
    bilinear_dplr,
    real_matrix,
    real_output,
    real_vector,
    zoh_diagonal,
)
from s4_impl.dplr import Backend, dplr_kernel
from s4_impl.hippo_matrix import DiagonalInit, HippoKind, diagonal, hippo, nplr
from s4_impl.recurrence import (
    DenseStep,
    DiagonalStep,
    LinearStep,
    Step,
    StepMode,
    diagonalise,
    in_precision,
    krylov,
    roll_forward,
)
from s4_impl.vandermonde_sum import vandermonde, vandermonde_naive, vandermonde_transpose

__all__ = ["Discretisation", "KernelMode", "S4Kernel"]

KernelMode = Literal["dplr", "diag", "dense"]
Discretisation = Literal["bilinear", "zoh"]
Learnable = Literal["dt", "A", "B"]

_LEAST_DECAY = 1e-4
"""Real parts of eigenvalues start at -1e-4 or below: HiPPO's windows have eigenvalues on the imaginary axis."""
_B_CLIP = 2.0


class S4Kernel(nn.Module):
    """A bank of `d_model` single-input state spaces x' = A x + B u, y = C x, each with its own time step dt.

    Calling it gives their convolution kernels; `step` runs them one sample at a time; the two agree to rounding.

    - `mode="dplr"`: A = diag(lam) - P P*, HiPPO kept exactly; the paper's S4.
    - `mode="diag"`: A = diag(lam); S4D (arXiv 2206.11893).
    - `mode="dense"`: A any real matrix, the kernel from its powers; O(N^2) and slow: the oracle, and LSSL's model.

    Complex parameters are stored as pairs of reals (last axis 2), one of each conjugate pair. With `mode="dplr"` the
    parameter `C` is the paper's C (I - Abar^L), where L is the buffer `l_kernel`: it is set from `l_max` (or by the
    first call) and doubles when a longer kernel is asked for (in distributed training give `l_max`, so that it does so
    on no process alone). Internally everything is done in double precision, which the device must have: the tables are
    small, and the result is a kernel correct to the last bits of float32, under autocast too.

    Args:
        d_model: number of state spaces, one a feature.
        d_state: N, the size of the real state; even.
        l_max: longest sequence expected; longer ones work as well.
        mode: see above.
        init: `legs`, `legt`, `lagt`, `fourier` or `random` (dplr, dense); `legs`, `lin`, `inv` or `real` (diag).
        rank: of P; default the least that `init` needs.
        tied: whether A's low-rank part is P P* (stable whatever the weights are) or P Q* with a free Q (first release).
        channels: independent C for each feature.
        n_ssm: number of different (A, B), shared by groups of features; divides d_model. Default: one a feature.
        discretisation: `bilinear` (dplr, dense, default), or `zoh` (diag, default).
        dt_min, dt_max: dt starts log-uniform between them.
        lr: learning rate hint for A, B, P, dt (`param_groups` takes the smaller of it and the model's).
        frozen: which of `dt`, `A`, `B` are not trained.
        bandlimit: S4D only: frequencies above this fraction of the Nyquist frequency are silenced (S4ND).
        backend: how the sums are done. `fft`: by matrix products and an FFT; `blockwise`: term by term in bounded
            memory; `naive`: all terms at once; `triton`: on CUDA; `auto`: triton on CUDA where it is installed, else
            fft.
        textbook: use the paper's formula as written, with its pole at the highest frequency, instead of the stable one.
        dtype: of the parameters; float32 by torch's default.

    Raises:
        ValueError: for arguments outside of these.
    """

    log_dt: Tensor
    log_decay: Tensor
    frequency: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    P: Tensor
    Q: Tensor
    l_kernel: Tensor

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        l_max: int | None = None,
        mode: KernelMode = "dplr",
        init: str = "legs",
        rank: int | None = None,
        tied: bool = True,
        channels: int = 1,
        n_ssm: int | None = None,
        discretisation: Discretisation | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        lr: float | None = 1e-3,
        frozen: Collection[Learnable] = (),
        bandlimit: float | None = None,
        backend: Backend = "auto",
        textbook: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n_ssm = d_model if n_ssm is None else n_ssm
        discretisation = discretisation or ("zoh" if mode == "diag" else "bilinear")
        _one_of("mode", mode, get_args(KernelMode))
        _one_of("backend", backend, get_args(Backend))
        _one_of("discretisation", discretisation, ("bilinear", "zoh") if mode == "diag" else ("bilinear",))
        for name, value in (("d_model", d_model), ("channels", channels), ("n_ssm", n_ssm), ("l_max", l_max)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if d_state < 2 or d_state % 2:
            raise ValueError(f"d_state must be a positive even number, got {d_state}")
        if d_model % n_ssm:
            raise ValueError(f"n_ssm must divide d_model ({d_model}), got {n_ssm}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min and dt_max must satisfy 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        for name in frozen:
            _one_of("frozen", name, get_args(Learnable))
        if bandlimit is not None and mode != "diag":
            raise ValueError(f"bandlimit is for mode 'diag', got mode {mode!r}")

        self.d_model, self.d_state, self.channels, self.n_ssm = d_model, d_state, channels, n_ssm
        self.mode, self.discretisation, self.tied = mode, discretisation, tied
        self.bandlimit, self.backend, self.textbook = bandlimit, backend, textbook
        self._frozen, self._lr = frozenset(frozen), lr
        self._step: Step | None = None
        self._step_versions: tuple[object, ...] = ()
        self._length = 0
        dtype = dtype or torch.get_default_dtype()

        log_dt = math.log(dt_min) + torch.rand(d_model, dtype=torch.float64) * math.log(dt_max / dt_min)
        self._register("log_dt", log_dt, "dt", dtype)
        if mode == "dense":
            A, B = _dense_init(init, d_state)
            self._register("A", A.expand(n_ssm, -1, -1), "A", dtype)
            self._register("B", B.expand(n_ssm, -1), "B", dtype)
            self._register("C", torch.randn(channels, d_model, d_state, dtype=torch.float64), None, dtype)
            return

        C = torch.randn(channels, d_model, d_state // 2, dtype=torch.complex128)
        if mode == "diag":
            _one_of("init", init, get_args(DiagonalInit))
            lam, B = diagonal(cast(DiagonalInit, init), d_state)
        else:
            lam, P, B = _dplr_init(init, d_state, rank)
            self._register_pairs("P", P.unsqueeze(1).expand(-1, n_ssm, -1), "A", dtype)
            if not tied:
                self._register_pairs("Q", P.unsqueeze(1).expand(-1, n_ssm, -1), "A", dtype)
        decay = torch.log((-lam.real).clamp(min=_LEAST_DECAY))
        self._register("log_decay", decay.expand(n_ssm, -1), "A", dtype)
        self._register("frequency", lam.imag.expand(n_ssm, -1), "A", dtype)
        B = torch.complex(B.real, B.imag.clamp(-_B_CLIP, _B_CLIP))
        self._register_pairs("B", B.expand(n_ssm, -1), "B", dtype)
        self._register_pairs("C", C, None, dtype)
        if mode == "dplr":
            self.register_buffer("l_kernel", torch.tensor(0))
            if l_max is not None:
                self._extend_to(l_max)

    # ------------------------------------------------------------------------------------------ parameters

    def _register(self, name: str, value: Tensor, group: Learnable | None, dtype: torch.dtype) -> None:
        parameter = nn.Parameter(value.to(dtype).clone(), requires_grad=group not in self._frozen)
        if group is not None:
            hint: dict[str, float] = {"weight_decay": 0.0}
            if self._lr is not None:
                hint["lr"] = self._lr
            parameter._optim = hint  # type: ignore[attr-defined]
        self.register_parameter(name, parameter)

    def _register_pairs(self, name: str, value: Tensor, group: Learnable | None, dtype: torch.dtype) -> None:
        self._register(name, torch.view_as_real(value.resolve_conj().contiguous()), group, dtype)

    def _pairs(self, name: str) -> Tensor:
        return torch.view_as_complex(getattr(self, name).to(torch.float64).contiguous())

    def _per_feature(self, value: Tensor, axis: int) -> Tensor:
        """Share the n_ssm systems out: feature h has system h mod n_ssm."""
        repeats = [1] * value.ndim
        repeats[axis] = self.d_model // self.n_ssm
        return value.repeat(repeats)

    def _dt(self, rate: float) -> Float[Tensor, "heads 1"]:
        return (rate * torch.exp(self.log_dt.to(torch.float64))).unsqueeze(-1)

    def continuous(self) -> DPLR:
        """The continuous-time systems of all features (complex128); rank 0 for `mode="diag"`."""
        lam = torch.complex(-torch.exp(self.log_decay.to(torch.float64)), self.frequency.to(torch.float64))
        lam, B = self._per_feature(lam, 0), self._per_feature(self._pairs("B"), 0)
        if self.mode == "diag":
            nothing = lam.new_zeros(0, *lam.shape)
            return DPLR(lam, nothing, nothing, B)
        P = self._per_feature(self._pairs("P"), 1)
        return DPLR(lam, P, P if self.tied else self._per_feature(self._pairs("Q"), 1), B)

    def discrete(self, rate: float = 1.0) -> DPLR:
        """The discrete-time systems of all features (complex128)."""
        system, dt = self.continuous(), self._dt(rate)
        if self.mode == "dplr":
            return bilinear_dplr(system, dt)
        transform = zoh_diagonal if self.discretisation == "zoh" else bilinear_diagonal
        lam, scale = transform(system.lam, dt)
        return system._replace(lam=lam, B=scale * system.B)

    def dense(
        self, rate: float = 1.0
    ) -> tuple[Float[Tensor, "heads state state"], Float[Tensor, "heads state"], Float[Tensor, "channels heads state"]]:
        """(Abar, Bbar, C) as ordinary real matrices in double precision; C itself, also where C (I - Abar^L) is stored.

        `C` meets states in the form of `real_vector`; see `s4_impl.discretise`.
        """
        if self.mode == "dense":
            A, B = self._per_feature(self.A.to(torch.float64), 0), self._per_feature(self.B.to(torch.float64), 0)
            return *bilinear(A, B, self._dt(rate).squeeze(-1)), self.C.to(torch.float64)
        system = self.discrete(rate)
        return real_matrix(system), real_vector(system.B), real_output(self._output())

    def _output(self) -> Complex[Tensor, "channels heads half"]:
        """C: for dplr, recovered from the stored C (I - Abar^L)."""
        C = self._pairs("C")
        if self.mode == "diag":
            freqs = torch.exp(self.log_dt.to(torch.float64))[:, None] * self._per_feature(self.frequency, 0).abs()
            return C if self.bandlimit is None else C * (freqs < math.pi * self.bandlimit)
        if self._length == 0:
            return C
        return _times(C, self._one_minus_power(1.0, self._length), inverse=True)

    def _one_minus_power(self, rate: float, L: int, sign: float = -1.0) -> Float[Tensor, "heads state state"]:
        """I - Abar^L, or I + Abar^L."""
        power = torch.linalg.matrix_power(real_matrix(self.discrete(rate)), L)
        return torch.eye(self.d_state, dtype=power.dtype, device=power.device) + sign * power

    @torch.no_grad()
    def _extend_to(self, L: int) -> None:
        """Make the stored C (I - Abar^l) one for l >= L: from C itself at first, then by doubling l."""
        prepared = self._step is not None and self._step_versions == self._versions()
        while self._length < L:
            first = self._length == 0
            length = L if first else self._length
            C = _times(self._pairs("C"), self._one_minus_power(1.0, length, -1.0 if first else 1.0))
            self.C.copy_(torch.view_as_real(C))
            self._length = L if first else 2 * self._length
            self.l_kernel.fill_(self._length)
        if prepared:  # another form of the same C: what setup_step computed still holds
            self._step_versions = self._versions()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.mode == "dplr":
            self._length = int(self.l_kernel)

    # --------------------------------------------------------------------------------------- convolution

    def forward(
        self, L: int, *, rate: float = 1.0, state: Tensor | None = None
    ) -> tuple[Float[Tensor, "channels heads {L}"], Float[Tensor, "batch channels heads {L}"] | None]:
        """The kernels K_l = C Abar^l Bbar for l < L, and, given a state, what it adds to the output: C Abar^(l+1) x.

        `rate` multiplies dt: 2 for input sampled half as often as in training.

        Raises:
            ValueError: if L is not positive or `state` has the wrong shape.
        """
        if L < 1:
            raise ValueError(f"length must be at least 1, got {L}")
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        if state is not None:
            self._check_state(state)
        with torch.autocast(self.log_dt.device.type, enabled=False):
            if self.mode == "dplr":
                K = self._dplr_kernel(L, rate, state)
            elif self.mode == "diag":
                K = self._diagonal_kernel(L, rate, state)
            else:
                K = self._dense_kernel(L, rate, state)
            K = K.to(torch.promote_types(self.log_dt.dtype, torch.float32))
        return K[-1], None if state is None else K[:-1]

    def _dplr_kernel(self, L: int, rate: float, state: Tensor | None) -> Tensor:
        system, dt = self.continuous(), self._dt(rate)
        inputs = system.B.unsqueeze(0)
        if state is not None:
            # The row b with Bbar = Abar x: (I + dt/2 A) x / dt.
            z = state.to(inputs.dtype)
            low_rank_part = torch.einsum("rhn,bhn->brh", system.Q.conj(), z).real * 2
            Az = system.lam * z - torch.einsum("rhn,brh->bhn", system.P, low_rank_part.to(z.dtype))
            inputs = torch.cat([z / dt + Az / 2, inputs])
        if rate == 1.0:
            self._extend_to(L)
            C_tilde, period = self._pairs("C"), self._length
        else:
            # At another rate Abar is another matrix: through C itself, exactly.
            C_tilde, period = _times(self._output(), self._one_minus_power(rate, L)), L
        K = dplr_kernel(system, inputs, C_tilde, dt, period, backend=self._backend(), textbook=self.textbook)
        return K[..., :L]

    def _diagonal_kernel(self, L: int, rate: float, state: Tensor | None) -> Tensor:
        system, C = self.discrete(rate), self._output()
        inputs = system.B.unsqueeze(0)
        if state is not None:
            inputs = torch.cat([system.lam * state, inputs])
        v = inputs.unsqueeze(1) * C
        backend = self._backend()
        if backend == "triton":
            from s4_impl.kernels_triton import vandermonde_triton as sum_powers
        else:
            sum_powers = vandermonde_naive if backend == "naive" else vandermonde
        return sum_powers(v.flatten(0, 1), system.lam, L).unflatten(0, v.shape[:2])

    def _dense_kernel(self, L: int, rate: float, state: Tensor | None) -> Tensor:
        A, B, C = self.dense(rate)
        K = torch.einsum("chn,hnl->chl", C, krylov(A, B, L)).unsqueeze(0)
        if state is None:
            return K
        rows = krylov(A.mT.repeat(self.channels, 1, 1), _rows(C, A), L)
        rows = rows.unflatten(0, (self.channels, self.d_model))
        return torch.cat([torch.einsum("chnl,bhn->bchl", rows, state.to(rows.dtype)), K])

    def _backend(self) -> Backend:
        if self.backend != "auto":
            return self.backend
        if self.log_dt.is_cuda:
            from importlib.util import find_spec

            return "triton" if find_spec("triton") else "fft"
        return "fft"

    # ------------------------------------------------------------------------------------------ recurrence

    def default_state(self, batch: int) -> Tensor:
        """The zero state: (batch, d_model, d_state/2) complex, one of each conjugate pair; for dense, d_state real."""
        dtype = torch.promote_types(self.log_dt.dtype, torch.float32)
        if self.mode == "dense":
            return torch.zeros(batch, self.d_model, self.d_state, dtype=dtype, device=self.log_dt.device)
        half = self.d_state // 2
        return torch.zeros(batch, self.d_model, half, dtype=dtype.to_complex(), device=self.log_dt.device)

    def next_state(self, u: Float[Tensor, "batch heads length"], state: Tensor, *, rate: float = 1.0) -> Tensor:
        """The state after the samples u.

        Raises:
            ValueError: if `state` has the wrong shape.
        """
        self._check_state(state)
        dtype = state.dtype
        with torch.autocast(self.log_dt.device.type, enabled=False):
            u = u.to(torch.float64)
            if self.mode == "diag":
                system = self.discrete(rate)
                collected = vandermonde_transpose(u.flip(-1), system.lam)
                return (system.lam ** u.shape[-1] * state + system.B * collected).to(dtype)
            if self.mode == "dense":
                A, B, _ = self.dense(rate)
                return roll_forward(A, B, u, state.to(torch.float64)).to(dtype)
            system = self.discrete(rate)
            x = real_vector(state.to(torch.complex128))
            x = roll_forward(real_matrix(system), real_vector(system.B), u, x)
            return torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()).to(dtype)

    @torch.no_grad()
    def setup_step(self, mode: StepMode = "linear", *, rate: float = 1.0) -> None:
        """Prepare `step` for the weights as they are now. Call it again when they have changed.

        - `linear`: O(N) a step, from the diagonal-plus-low-rank form. Not for `mode="dense"` kernels.
        - `dense`: O(N^2), the full matrix.
        - `diagonal`: O(N) in the basis of Abar's eigenvectors, where these are well enough conditioned.

        Raises:
            ValueError: for an unknown mode, or one that this kernel cannot be stepped in.
        """
        _one_of("step mode", mode, get_args(StepMode))
        A, B, C = self.dense(rate)
        step: Step
        if mode == "dense":
            step = DenseStep(A, B, C, paired=self.mode != "dense")
        elif mode == "linear" or self.mode == "diag":
            if self.mode == "dense":
                raise ValueError("step mode 'linear' needs a diagonal-plus-low-rank A: use 'dense' or 'diagonal'")
            step = LinearStep.of(self.discrete(rate), C)
        else:
            eigenvalues, V, inverse = diagonalise(A)
            Bd = torch.einsum("hmn,hn->hm", inverse, B.to(inverse.dtype))
            Cd = torch.einsum("chn,hnm->chm", C.to(V.dtype), V)
            step = DiagonalStep(eigenvalues, Bd, Cd, V, inverse, paired=self.mode != "dense")
        self._step = in_precision(step, torch.promote_types(self.log_dt.dtype, torch.float32))
        self._step_versions = self._versions()

    def step(
        self, u: Float[Tensor, "batch heads"], state: Tensor
    ) -> tuple[Float[Tensor, "batch channels heads"], Tensor]:
        """One sample: y_t and the new state.

        States from `default_state`, `next_state` and a layer's forward are taken in every mode. In mode `diagonal` the
        new state is in the eigenbasis; `standard_state` brings it back.

        Raises:
            RuntimeError: before `setup_step`, or if the weights have changed since.
            ValueError: if `state` has the wrong shape.
        """
        if self._step is None:
            raise RuntimeError("step() needs setup_step() first")
        if self._step_versions != self._versions():
            raise RuntimeError("the weights have changed since setup_step(): call setup_step() again")
        if isinstance(self._step, DiagonalStep):
            if not self._in_eigenbasis(state):
                self._check_state(state)
                state = self._step.encode(state)
        else:
            self._check_state(state)
        u = u.to(torch.promote_types(self.log_dt.dtype, torch.float32))
        if torch.is_autocast_enabled(u.device.type):
            with torch.autocast(u.device.type, enabled=False):
                return self._step(u, state)
        return self._step(u, state)

    def standard_state(self, state: Tensor) -> Tensor:
        """A state that `step` returned, in the form that `forward` and the other step modes take."""
        if isinstance(self._step, DiagonalStep) and self._in_eigenbasis(state):
            return self._step.decode(state)
        return state

    def _in_eigenbasis(self, state: Tensor) -> bool:
        return state.is_complex() and state.shape[-1] == self.d_state

    def _check_state(self, state: Tensor) -> None:
        expected = (self.d_model, self.d_state if self.mode == "dense" else self.d_state // 2)
        if state.ndim != 3 or tuple(state.shape[1:]) != expected:
            raise ValueError(f"state must have shape (batch, {expected[0]}, {expected[1]}), got {tuple(state.shape)}")

    def _versions(self) -> tuple[object, ...]:
        return tuple((p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version) for p in self.parameters())

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, d_state={self.d_state}, mode={self.mode!r}, channels={self.channels}, "
            f"n_ssm={self.n_ssm}, discretisation={self.discretisation!r}"
        )


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def _rows(C: Tensor, A: Tensor) -> Tensor:
    """C A for each channel and head, both in one axis."""
    return torch.einsum("chn,hnm->chm", C, A).flatten(0, 1)


def _times(
    C: Complex[Tensor, "channels heads half"], M: Float[Tensor, "heads state state"], *, inverse: bool = False
) -> Complex[Tensor, "channels heads half"]:
    """C M, or C M^-1, for a real matrix M that acts on conjugate pairs."""
    rows = real_output(C).transpose(0, 1)
    rows = torch.linalg.solve(M, rows, left=False) if inverse else rows @ M
    pairs = torch.view_as_complex(rows.transpose(0, 1).unflatten(-1, (-1, 2)).contiguous())
    return pairs.conj() / 2


def _dense_init(init: str, N: int) -> tuple[Tensor, Tensor]:
    if init == "random":
        # Spectrum within the unit disc around -1/2: neither explodes at once nor is exactly HiPPO-like.
        return torch.randn(N, N, dtype=torch.float64) / math.sqrt(N) - torch.eye(N), torch.ones(N, dtype=torch.float64)
    _one_of("init", init, (*get_args(HippoKind), "random"))
    return hippo(cast(HippoKind, init), N)


def _dplr_init(init: str, N: int, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """lam, P, B; `random` has frequencies exp(normal) and normal P, the ablation of HiPPO (section 4.4)."""
    if init == "random":
        half = N // 2
        lam = torch.complex(torch.full((half,), -0.5), -torch.exp(torch.randn(half))).to(torch.complex128)
        P = torch.randn(rank or 1, half, dtype=torch.complex128)
        return lam, P, torch.ones(half, dtype=torch.complex128)
    _one_of("init", init, (*get_args(HippoKind), "random"))
    lam, P, B, _ = nplr(cast(HippoKind, init), N, rank)
    return lam, P, B
