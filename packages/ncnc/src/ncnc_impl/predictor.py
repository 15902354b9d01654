"""Scoring a link from its endpoints' vectors and its neighbourhood: NCN, NCNC and their relatives (sections 4 and 5).

For a pair (i, j) with node vectors h, written as in the paper:
    z_ij = h_i * h_j                                   elementwise
    z_cn = sum over u in N(i) ∩ N(j) of v_u            v = h + xlin(h), or h
    logit = lin(beta xcnlin(z_cn) + xijlin(z_ij))      NCN
NCNC counts every neighbour u of only one endpoint as well, weighted by the probability that its missing link exists,
which a scorer of depth one less predicts.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ncnc_impl.csr import CSR
from ncnc_impl.dropout import Dropout
from ncnc_impl.encoder import drop_edges
from ncnc_impl.overlap import common_neighbors, overlap_parts, sample_entries, two_step_neighbors

__all__ = ["Compat", "LinkHead", "Variant", "completion_probability", "completion_probability_naive"]

Variant = Literal["ncn", "ncnc", "ncn2", "ncn_diff", "gae", "gae_cn", "gae_cnc"]
Compat = Literal["paper", "official"]


def completion_probability(
    logit: Float[Tensor, "*links"],
    *,
    scale: float,
    offset: float,
    log_pt: Float[Tensor, "*#links"],
    alpha: float,
) -> Float[Tensor, "*links"]:
    """Probability that a missing link exists, from the logit a link predictor gives it (section 5).

    p = alpha * pt p0 / (pt p0 + 1 - p0) with p0 = sigmoid(scale (logit - offset)), computed as
    alpha * sigmoid(scale (logit - offset) + ln pt): the same number, without 0 / 0 where p0 rounds to 1 or pt is 0.
    """
    return alpha * torch.sigmoid(scale * (logit - offset) + log_pt)


def completion_probability_naive(
    logit: Float[Tensor, "*links"], *, scale: float, offset: float, pt: float, alpha: float
) -> Float[Tensor, "*links"]:
    """The same as `completion_probability`, as the paper writes it: the oracle of the tests."""
    p0 = torch.sigmoid(scale * (logit - offset))
    return alpha * pt * p0 / (pt * p0 + 1.0 - p0)


class LinkHead(nn.Module):
    """Logits of links from node vectors and the adjacency matrix.

    Args:
        dim: width of the node vectors, H.
        variant: what of the neighbourhood counts.
            gae: nothing, z_ij alone; ncn: the sum over common neighbours; ncnc: the completed sum;
            gae_cn, gae_cnc: their number instead of the sum, plain and completed;
            ncn2: ncn and the sums over N(i) ∩ N2(j) and N2(i) ∩ N(j), N2 being two steps;
            ncn_diff: ncn and the sums over N(i) \\ N(j) and N(j) \\ N(i).
        dropout: dropout in every layer (`predp`).
        edge_dropout: share of edges dropped before neighbourhoods are taken, in training (`preedp`).
        layer_norm: LayerNorm in every layer (`lnnn`).
        transform_nodes: sum h + xlin(h) instead of h (`use_xlin`).
        tail_act: the three inner branches end in their activation, not in one more linear layer (`tailact`).
        two_layer_out: one more layer before the logit (`twolayerlin`).
        beta: start of the learned weight of z_cn.
        depth: how often completion is applied (ncnc and gae_cnc), K.
        scale, offset, pt, alpha: calibration of the completion probability.
        learn_pt: pt is predicted from z_ij instead.
        train_degree, test_degree: residual neighbours sampled per pair and side; None takes all.
        common_degree: common neighbours sampled per pair; None takes all.
        chunk_size: inner links scored at a time; bounds memory, changes nothing else.
        compat: "official" repeats the official code where it departs from the formula: inside the recursion
            xlin is applied once more to the vectors it already transformed, and edges are dropped once more.
    """

    def __init__(
        self,
        dim: int,
        *,
        variant: Variant = "ncnc",
        dropout: float = 0.0,
        edge_dropout: float = 0.0,
        layer_norm: bool = True,
        transform_nodes: bool = True,
        tail_act: bool = True,
        two_layer_out: bool = False,
        beta: float = 1.0,
        depth: int = 1,
        scale: float = 5.0,
        offset: float = 3.0,
        pt: float = 0.5,
        alpha: float = 1.0,
        learn_pt: bool = False,
        train_degree: int | None = None,
        test_degree: int | None = None,
        common_degree: int | None = None,
        chunk_size: int = 2**16,
        compat: Compat = "paper",
    ) -> None:
        super().__init__()
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {get_args(Variant)}, got {variant!r}")
        if compat not in get_args(Compat):
            raise ValueError(f"compat must be one of {get_args(Compat)}, got {compat!r}")
        for name, rate in (("dropout", dropout), ("edge_dropout", edge_dropout)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} must be at least 0 and below 1, got {rate}")
        limits = {"train_degree": train_degree, "test_degree": test_degree, "common_degree": common_degree}
        for name, number in {**limits, "chunk_size": chunk_size, "depth": depth}.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        for name, size in (("pt", pt), ("alpha", alpha)):
            if size < 0:
                raise ValueError(f"{name} must not be negative, got {size}")
        self.variant, self.compat = variant, compat
        self.completes = variant in ("ncnc", "gae_cnc")
        self.counts_only = variant in ("gae_cn", "gae_cnc")
        self.depth = depth if self.completes else 0
        self.edge_dropout, self.chunk_size = edge_dropout, chunk_size
        self.scale, self.offset, self.pt, self.alpha = scale, offset, pt, alpha
        self.train_degree, self.test_degree, self.common_degree = train_degree, test_degree, common_degree

        def layer(width: int) -> list[nn.Module]:
            norm = nn.LayerNorm(dim) if layer_norm else nn.Identity()
            return [nn.Linear(width, dim), norm, Dropout(dropout), nn.ReLU()]

        def branch(width: int) -> nn.Sequential:
            first = [nn.Linear(width, dim), Dropout(dropout), nn.ReLU()]
            return nn.Sequential(*first, *layer(dim), *tail())

        def tail() -> list[nn.Module]:
            return [] if tail_act else [nn.Linear(dim, dim)]

        neighborhood = variant != "gae"
        self.xlin: nn.Module | None = None
        if transform_nodes and neighborhood and not self.counts_only:
            self.xlin = nn.Sequential(nn.Linear(dim, dim), Dropout(dropout), nn.ReLU(), *layer(dim))
        self.xcnlin = branch(1 if self.counts_only else dim) if neighborhood else None
        self.beta = nn.Parameter(torch.tensor([float(beta)])) if neighborhood else None
        self.extra_lin = branch(dim) if variant in ("ncn2", "ncn_diff") else None
        self.xijlin = nn.Sequential(*layer(dim), *tail())
        self.lin = nn.Sequential(*layer(dim), *(layer(dim) if two_layer_out else []), nn.Linear(dim, 1))
        self.ptlin: nn.Module | None = None
        if learn_pt and self.completes:
            self.ptlin = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(
        self,
        h: Float[Tensor, "nodes dim"],
        adj: CSR,
        pairs: Int64[Tensor, "links 2"],
        *,
        depth: int | None = None,
    ) -> Float[Tensor, "links"]:
        """One logit a pair.

        Args:
            depth: completion depth of this call; default: the one given at construction.
        """
        depth = self.depth if depth is None else depth
        if self.xcnlin is None:
            return self._output(self.xijlin(h[pairs[:, 0]] * h[pairs[:, 1]]))
        adj = drop_edges(adj, self.edge_dropout, training=self.training, rescale=False)
        # completion visits most nodes; otherwise only the neighbours in question need to be transformed, see _sum
        v = h + self.xlin(h) if self.xlin is not None and depth > 0 else None
        return self._logits(h, v, adj, pairs, depth)

    def _logits(self, h: Tensor, v: Tensor | None, adj: CSR, pairs: Tensor, depth: int) -> Tensor:
        z_ij = h[pairs[:, 0]] * h[pairs[:, 1]]
        z_extra = None
        if depth > 0:
            z_cn = self._completed_sum(h, h if v is None else v, adj, pairs, z_ij, depth)
        elif self.variant == "ncn_diff":
            common, only_i, only_j = overlap_parts(adj, pairs)
            z_cn = self._sum(self._limited(common), h, v)
            z_extra = self._sum(only_i, h, v) + self._sum(only_j, h, v)
        else:
            common = self._limited(common_neighbors(adj, pairs))
            z_cn = self._sum(common, h, v)
            if self.variant == "ncn2":
                z_extra = self._sum(self._limited(two_step_neighbors(adj, pairs)), h, v)
                z_extra = z_extra + self._sum(self._limited(two_step_neighbors(adj, pairs.flip(1))), h, v)
        assert self.beta is not None
        z = self._branch(z_cn) * self.beta + self.xijlin(z_ij)
        if self.extra_lin is not None:
            z = z + self.extra_lin(z_extra)
        return self._output(z)

    def _completed_sum(self, h: Tensor, v: Tensor, adj: CSR, pairs: Tensor, z_ij: Tensor, depth: int) -> Tensor:
        """z_cn = sum of P_uij v_u; P is 1 for u in N(i) and N(j), p(j, u) for N(i) alone, p(i, u) for N(j) alone."""
        common, only_i, only_j = overlap_parts(adj, pairs)
        limit = self.train_degree if self.training else self.test_degree
        log_pt = z_ij.new_tensor([self.pt]).log()
        per_pair = None if self.ptlin is None else F.logsigmoid(self.ptlin(z_ij)).squeeze(1)
        z_cn = self._sum(self._limited(common), h, v)
        for residual, far_end in ((only_i, pairs[:, 1]), (only_j, pairs[:, 0])):
            rest = residual if limit is None else sample_entries(residual, limit)
            row = rest.rows()
            # no gradient through p: completion is an input to the outer predictor, not a path of its own
            with torch.no_grad():
                logit = self._inner_logits(h, v, adj, torch.stack((far_end[row], rest.col), 1), depth - 1)
            p = completion_probability(
                logit,
                scale=self.scale,
                offset=self.offset,
                log_pt=log_pt if per_pair is None else per_pair[row],
                alpha=self.alpha,
            )
            weight = p if rest.value is None else p * rest.value.to(p.dtype)
            z_cn = z_cn + self._sum(rest.with_value(weight), h, v)
        return z_cn

    def _inner_logits(self, h: Tensor, v: Tensor, adj: CSR, pairs: Tensor, depth: int) -> Tensor:
        logits = h.new_empty(pairs.shape[0])
        for start in range(0, pairs.shape[0], self.chunk_size):
            part = pairs[start : start + self.chunk_size]
            if self.compat == "official":
                found = self.forward(v, adj, part, depth=depth)
            else:
                found = self._logits(h, v, adj, part, depth)
            logits[start : start + self.chunk_size] = found
        return logits

    def _sum(self, members: CSR, h: Tensor, v: Tensor | None) -> Tensor:
        """The sum of the members' transformed vectors, or their (weighted) number as one column.

        Args:
            v: the transformed vectors of all nodes; None to transform the members here, and only them.
        """
        if self.counts_only:
            return members.row_sums().to(h.dtype).unsqueeze(1)
        if v is not None or self.xlin is None:
            return members.matmul(h if v is None else v)
        seen = torch.zeros(members.n_cols, dtype=torch.bool, device=members.device)
        seen[members.col] = True
        nodes = seen.nonzero().squeeze(1)
        number = torch.empty(members.n_cols, dtype=torch.int64, device=members.device)
        number[nodes] = torch.arange(nodes.numel(), device=members.device)
        own = h[nodes]
        compact = CSR(members.rowptr, number[members.col], nodes.numel(), members.value)
        return compact.matmul(own + self.xlin(own))

    def _branch(self, z_cn: Tensor) -> Tensor:
        """xcnlin(z_cn); without dropout all empty neighbourhoods share one result, which most inner links need."""
        assert self.xcnlin is not None
        filled = (z_cn != 0).any(1).nonzero().squeeze(1)
        if self.training or torch.is_grad_enabled() or filled.numel() == z_cn.shape[0]:
            whole: Tensor = self.xcnlin(z_cn)
            return whole
        nothing = self.xcnlin(z_cn.new_zeros(1, z_cn.shape[1])).expand(z_cn.shape[0], -1)
        return nothing.index_copy(0, filled, self.xcnlin(z_cn[filled]))

    def _limited(self, members: CSR) -> CSR:
        return members if self.common_degree is None else sample_entries(members, self.common_degree)

    def _output(self, z: Tensor) -> Tensor:
        logit: Tensor = self.lin(z).squeeze(1)
        return logit
