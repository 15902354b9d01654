"""The whole model: encoder and link head, with weights that save to and load from safetensors."""

from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from ncnc_impl.csr import CSR
from ncnc_impl.encoder import Conv, Encoder, Features
from ncnc_impl.predictor import Compat, LinkHead, Variant
from shared_impl.pretrained import Pretrained

__all__ = ["NCN"]


class NCN(nn.Module, Pretrained, library_name="ncnc-impl", license="mit", tags=["link-prediction"]):
    """Neural Common Neighbor, with completion (`variant="ncnc"`, the default) or any of its relatives.

    `encode` runs once for a graph, `score` as often as there are links to score.

    Args:
        in_dim: width of the node features; None with `n_categories`.
        hidden: width of node vectors and of every layer, H.
        variant: see `LinkHead`.
        n_categories, conv, n_layers, x_dropout, encoder_dropout, tail_dropout, encoder_edge_dropout,
            encoder_layer_norm, residual, jumping: see `Encoder`.
        dropout, edge_dropout, layer_norm and all others: see `LinkHead`.
    """

    def __init__(
        self,
        in_dim: int | None = None,
        hidden: int = 256,
        *,
        variant: Variant = "ncnc",
        depth: int = 1,
        n_categories: int | None = None,
        conv: Conv = "puregcn",
        n_layers: int = 1,
        x_dropout: float = 0.0,
        encoder_dropout: float = 0.0,
        tail_dropout: float = 0.0,
        encoder_edge_dropout: float = 0.0,
        encoder_layer_norm: bool = True,
        residual: bool = False,
        jumping: bool = False,
        dropout: float = 0.0,
        edge_dropout: float = 0.0,
        layer_norm: bool = True,
        transform_nodes: bool = True,
        tail_act: bool = True,
        two_layer_out: bool = False,
        beta: float = 1.0,
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
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.encoder = Encoder(
            in_dim,
            hidden,
            n_categories=n_categories,
            conv=conv,
            n_layers=n_layers,
            x_dropout=x_dropout,
            dropout=encoder_dropout,
            tail_dropout=tail_dropout,
            edge_dropout=encoder_edge_dropout,
            layer_norm=encoder_layer_norm,
            residual=residual,
            jumping=jumping,
        )
        self.head = LinkHead(
            hidden,
            variant=variant,
            dropout=dropout,
            edge_dropout=edge_dropout,
            layer_norm=layer_norm,
            transform_nodes=transform_nodes,
            tail_act=tail_act,
            two_layer_out=two_layer_out,
            beta=beta,
            depth=depth,
            scale=scale,
            offset=offset,
            pt=pt,
            alpha=alpha,
            learn_pt=learn_pt,
            train_degree=train_degree,
            test_degree=test_degree,
            common_degree=common_degree,
            chunk_size=chunk_size,
            compat=compat,
        )

    def encode(self, x: Features, adj: CSR) -> Float[Tensor, "nodes hidden"]:
        """Node vectors from features (dense, sparse or categories) and adjacency."""
        h: Tensor = self.encoder(x, adj)
        return h

    def score(
        self, h: Float[Tensor, "nodes hidden"], adj: CSR, pairs: Int64[Tensor, "links 2"], **options: Any
    ) -> Float[Tensor, "links"]:
        """Logits of node pairs, given node vectors."""
        logits: Tensor = self.head(h, adj, pairs, **options)
        return logits

    def forward(self, x: Features, adj: CSR, pairs: Int64[Tensor, "links 2"]) -> Float[Tensor, "links"]:
        """`encode`, then `score`."""
        return self.score(self.encode(x, adj), adj, pairs)
