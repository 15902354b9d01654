"""The layers, by the names of torch.nn."""

# fmt: off
# isort: off
from .attention import EncoderLayer, RecyclingPositionalEncoding, RetroactiveMHA, SingleOutputMHA, TransformerEncoder
from .container import Broadcast, BroadcastReduce, Conditional, Parallel, Reduce, Residual, Sequential
from .conv import Conv1d, Conv2d, Conv3d
from .pointwise import (
    GRU, LSTM, RNN, BatchNorm1d, BatchNorm2d, BatchNorm3d, Delay, Flatten, Lambda, LayerNorm, Linear, Pointwise, PReLU,
    RMSNorm, SqueezeExcite,
)
from .pool import AvgPool1d, AvgPool2d, AvgPool3d, GlobalAvgPool, MaxPool1d, MaxPool2d, MaxPool3d

__all__ = [
    "GRU", "LSTM", "RNN", "AvgPool1d", "AvgPool2d", "AvgPool3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d",
    "Broadcast", "BroadcastReduce", "Conditional", "Conv1d", "Conv2d", "Conv3d", "Delay", "EncoderLayer", "Flatten",
    "GlobalAvgPool", "Lambda", "LayerNorm", "Linear", "MaxPool1d", "MaxPool2d", "MaxPool3d", "PReLU", "Parallel",
    "Pointwise", "RMSNorm", "RecyclingPositionalEncoding", "Reduce", "Residual", "RetroactiveMHA", "Sequential",
    "SingleOutputMHA", "SqueezeExcite", "TransformerEncoder",
]
