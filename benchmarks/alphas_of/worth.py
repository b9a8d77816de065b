"""What each gate is worth, against its alpha: is a large alpha an important layer?"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.stats import spearmanr

from fagan_hf.metrics.ablation import Ablation

MEASURES = ("necessity", "sufficiency")


class RankCorrelation(NamedTuple):
    """Spearman's rank correlation.

    Attributes:
        rho: From -1 to 1; ``None`` if there are fewer than 3 pairs, or one side is constant.
        p: Of two-sided independence. Layers of one run are not independent, so it is too small.
        n: Number of pairs.
    """

    rho: float | None
    p: float | None
    n: int


def worth(found: Ablation) -> dict[str, Any]:
    """Return an ablation in short: its distance, the first metric, of each setting of the gates."""
    return {
        "metric": found.trained[0].name,
        "trained": _value(found.trained),
        "closed": _value(found.closed),
        "gates": {
            name: {
                "alpha": round(alpha, 4),
                "without": _value(found.without[name]),
                **({"alone": _value(found.alone[name])} if found.alone else {}),
            }
            for name, alpha in found.values.items()
        },
    }


def necessity(run: Mapping[str, Any], gate: str) -> float:
    """Return by how much the distance grows if only this gate is closed."""
    return run["gates"][gate]["without"] - run["trained"]


def sufficiency(run: Mapping[str, Any], gate: str) -> float:
    """Return by how much the distance falls from that of closed gates if only this gate is open."""
    return run["closed"] - run["gates"][gate]["alone"]


def rank_correlation(runs: Sequence[Mapping[str, Any]], measure: str) -> RankCorrelation:
    """Correlate the size of alpha with a measure of `MEASURES`, over the gates of all runs."""
    of = {"necessity": necessity, "sufficiency": sufficiency}[measure]
    pairs = [(abs(gate["alpha"]), of(run, name)) for run in runs for name, gate in run["gates"].items()]
    alphas, values = ([pair[side] for pair in pairs] for side in (0, 1))
    if len(pairs) < 3 or len(set(alphas)) == 1 or len(set(values)) == 1:
        return RankCorrelation(None, None, len(pairs))
    found: Any = spearmanr(alphas, values)
    return RankCorrelation(float(found.statistic), float(found.pvalue), len(pairs))


def _value(metrics: Sequence[Any]) -> float:
    return float(f"{metrics[0].value:.5g}")
