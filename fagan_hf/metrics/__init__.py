"""Measure how good generated images are."""

from fagan_hf.metrics.evaluate import Evaluation, evaluate
from fagan_hf.metrics.features import FeatureExtractor

__all__ = ["Evaluation", "FeatureExtractor", "evaluate"]
