"""Measure how good generated images are."""

from fagan_hf.metrics.ablation import Ablation, ablate
from fagan_hf.metrics.evaluate import Evaluation, evaluate
from fagan_hf.metrics.features import FeatureExtractor

__all__ = ["Ablation", "Evaluation", "FeatureExtractor", "ablate", "evaluate"]
