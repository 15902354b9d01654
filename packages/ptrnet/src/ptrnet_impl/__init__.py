"""Pointer networks: sequence models that answer with positions of their own input (Vinyals et al. 2015)."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("ptrnet-impl")

if TYPE_CHECKING:
    from .attention import PointerAttention as PointerAttention
    from .attention import pointer_scores as pointer_scores
    from .attention import pointer_scores_loop as pointer_scores_loop
    from .data import Batch as Batch
    from .data import GeometryDataset as GeometryDataset
    from .data import collate as collate
    from .data import read_points as read_points
    from .data import read_tsplib as read_tsplib
    from .data import read_vinyals_file as read_vinyals_file
    from .data import unit_square as unit_square
    from .data import write_vinyals_file as write_vinyals_file
    from .decoding import Decoded as Decoded
    from .geometry import canonical_hull as canonical_hull
    from .geometry import canonical_triangles as canonical_triangles
    from .geometry import delaunay_brute_force as delaunay_brute_force
    from .geometry import delaunay_canonical as delaunay_canonical
    from .geometry import hull_ccw as hull_ccw
    from .geometry import hull_ccw_batch as hull_ccw_batch
    from .geometry import is_simple_polygon as is_simple_polygon
    from .geometry import polygon_area as polygon_area
    from .metrics import hull_accuracy as hull_accuracy
    from .metrics import hull_area as hull_area
    from .metrics import sequence_accuracy as sequence_accuracy
    from .metrics import tour_length as tour_length
    from .metrics import triangle_coverage as triangle_coverage
    from .model import PointerNetwork as PointerNetwork
    from .model import Seq2Seq as Seq2Seq
    from .model import Seq2SeqAttention as Seq2SeqAttention
    from .model import teacher_forcing_loop as teacher_forcing_loop
    from .solver import PointerSolver as PointerSolver
    from .tasks import TASKS as TASKS
    from .tasks import generate as generate
    from .tours import brute_force_tour as brute_force_tour
    from .tours import canonical_tour as canonical_tour
    from .tours import christofides as christofides
    from .tours import held_karp as held_karp
    from .tours import held_karp_loop as held_karp_loop
    from .tours import local_search as local_search
    from .tours import nearest_neighbor as nearest_neighbor
    from .tours import or_opt as or_opt
    from .tours import tour_lengths as tour_lengths
    from .tours import two_opt as two_opt
    from .training import Recipe as Recipe
    from .training import build as build
    from .training import evaluate as evaluate
    from .training import train as train

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "model": ["PointerNetwork", "Seq2Seq", "Seq2SeqAttention", "teacher_forcing_loop"],
        "attention": ["PointerAttention", "pointer_scores", "pointer_scores_loop"],
        "decoding": ["Decoded"],
        "solver": ["PointerSolver"],
        "training": ["Recipe", "build", "evaluate", "train"],
        "tasks": ["TASKS", "generate"],
        "geometry": [
            "canonical_hull",
            "canonical_triangles",
            "delaunay_brute_force",
            "delaunay_canonical",
            "hull_ccw",
            "hull_ccw_batch",
            "is_simple_polygon",
            "polygon_area",
        ],
        "tours": [
            "brute_force_tour",
            "canonical_tour",
            "christofides",
            "held_karp",
            "held_karp_loop",
            "local_search",
            "nearest_neighbor",
            "or_opt",
            "tour_lengths",
            "two_opt",
        ],
        "metrics": ["hull_accuracy", "hull_area", "sequence_accuracy", "tour_length", "triangle_coverage"],
        "data": [
            "Batch",
            "GeometryDataset",
            "collate",
            "read_points",
            "read_tsplib",
            "read_vinyals_file",
            "unit_square",
            "write_vinyals_file",
        ],
    },
)
