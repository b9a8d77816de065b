"""The trainer: a recipe as data, a run in its folder, and the steps of both networks. Needs the extra ``train``."""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand

if TYPE_CHECKING:
    from fagan_hf.training.flags import build_recipe
    from fagan_hf.training.recipe import Recipe
    from fagan_hf.training.start import TrainedRun, train

__all__ = ["Recipe", "TrainedRun", "build_recipe", "train"]

__getattr__ = on_demand(__name__, {"flags": ["build_recipe"], "recipe": ["Recipe"], "start": ["TrainedRun", "train"]})
