"""The shared ViLT, equations (1) to (6) of the paper, around any visual embedder; and those it is compared with."""

from vilt_bench.model.alone import Alone
from vilt_bench.model.bert import Bert
from vilt_bench.model.checkpoint import load_checkpoint
from vilt_bench.model.interaction import ViltOutput
from vilt_bench.model.language import FirstToken, LanguageModel
from vilt_bench.model.lxmert import Lxmert, LxmertConfig
from vilt_bench.model.shared import build_shared, shared_sizes
from vilt_bench.model.text import TextTokens, TextualEmbedder
from vilt_bench.model.vilbert import Vilbert, VilbertConfig
from vilt_bench.model.vilt import SharedModel, Vilt, VisionLanguageModel, gather_stages, replace_stage, stages

__all__ = [
    "Alone",
    "Bert",
    "FirstToken",
    "LanguageModel",
    "Lxmert",
    "LxmertConfig",
    "SharedModel",
    "TextTokens",
    "TextualEmbedder",
    "Vilbert",
    "VilbertConfig",
    "Vilt",
    "ViltOutput",
    "VisionLanguageModel",
    "build_shared",
    "gather_stages",
    "load_checkpoint",
    "replace_stage",
    "shared_sizes",
    "stages",
]
