"""A Critical Review of Recurrent Neural Networks for Sequence Learning: every network of the survey, every training."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("rnn-review-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "cells": ["ElmanCell", "GRUCell", "JordanCell", "LSTMCell"],
        "data": ["iam_strokes", "parallel_text", "spoken_digits"],
        "decoding": ["beam_search", "ctc_beam", "ctc_greedy", "greedy", "sample"],
        "estimators": ["SequenceClassifier", "SequenceTagger"],
        "fused": ["lstm_sequence"],
        "language": ["CharLM", "LanguageModel"],
        "losses": ["ctc_loss", "gaussian", "multilabel", "softmax_cross_entropy", "squared"],
        "metrics": ["bits_per_char", "bleu", "edit_distance", "error_rate", "exact_match_f", "perplexity"],
        "ngrams": ["NGram"],
        "ntm": ["NTM"],
        "rnn": ["RNN", "from_torch", "to_torch"],
        "seq2seq": ["Decoder", "Encoder", "Seq2Seq"],
        "training": [
            "RTRL", "JacobianProbe", "SequenceNet", "bptt", "clip_norm", "clip_value", "elman_bptt_reference",
            "jacobians_reference", "make_optimizer", "pascanu_regularizer", "tbptt",
        ],
    },
)  # fmt: skip

if TYPE_CHECKING:
    from .cells import ElmanCell as ElmanCell
    from .cells import GRUCell as GRUCell
    from .cells import JordanCell as JordanCell
    from .cells import LSTMCell as LSTMCell
    from .data import iam_strokes as iam_strokes
    from .data import parallel_text as parallel_text
    from .data import spoken_digits as spoken_digits
    from .decoding import beam_search as beam_search
    from .decoding import ctc_beam as ctc_beam
    from .decoding import ctc_greedy as ctc_greedy
    from .decoding import greedy as greedy
    from .decoding import sample as sample
    from .estimators import SequenceClassifier as SequenceClassifier
    from .estimators import SequenceTagger as SequenceTagger
    from .fused import lstm_sequence as lstm_sequence
    from .language import CharLM as CharLM
    from .language import LanguageModel as LanguageModel
    from .losses import ctc_loss as ctc_loss
    from .losses import gaussian as gaussian
    from .losses import multilabel as multilabel
    from .losses import softmax_cross_entropy as softmax_cross_entropy
    from .losses import squared as squared
    from .metrics import bits_per_char as bits_per_char
    from .metrics import bleu as bleu
    from .metrics import edit_distance as edit_distance
    from .metrics import error_rate as error_rate
    from .metrics import exact_match_f as exact_match_f
    from .metrics import perplexity as perplexity
    from .ngrams import NGram as NGram
    from .ntm import NTM as NTM
    from .rnn import RNN as RNN
    from .rnn import from_torch as from_torch
    from .rnn import to_torch as to_torch
    from .seq2seq import Decoder as Decoder
    from .seq2seq import Encoder as Encoder
    from .seq2seq import Seq2Seq as Seq2Seq
    from .training import RTRL as RTRL
    from .training import JacobianProbe as JacobianProbe
    from .training import SequenceNet as SequenceNet
    from .training import bptt as bptt
    from .training import clip_norm as clip_norm
    from .training import clip_value as clip_value
    from .training import elman_bptt_reference as elman_bptt_reference
    from .training import jacobians_reference as jacobians_reference
    from .training import make_optimizer as make_optimizer
    from .training import pascanu_regularizer as pascanu_regularizer
    from .training import tbptt as tbptt
