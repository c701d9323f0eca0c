"""Optuna's samplers by the name that `study.sampler` takes."""

import importlib
import warnings
from typing import Any

import optuna

from lorasweep.config.settings import StudySettings
from lorasweep.core.errors import ConfigError


def make_sampler(settings: StudySettings, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the settings. The driver queues all points of a grid, so its sampler is never used.

    Raises:
        ConfigError: the sampler needs a package that is not installed.
    """
    samplers = optuna.samplers
    table: dict[str, Any] = {
        "grid": lambda: samplers.RandomSampler(seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
        "tpe": lambda: samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
        "gp": lambda: samplers.GPSampler(seed=seed),
        "cmaes": lambda: _cmaes(seed),
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed),
        "nsga3": lambda: samplers.NSGAIIISampler(seed=seed),
        "qmc": lambda: samplers.QMCSampler(seed=seed, warn_independent_sampling=False),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            sampler: optuna.samplers.BaseSampler = table[settings.sampler]()
        except ImportError as error:
            raise ConfigError([
                f"study.sampler: {settings.sampler} needs a package ({error}); "
                f"pip install 'lorasweep[{settings.sampler}]', or use tpe"
            ]) from error  # fmt: skip
    return sampler


def _cmaes(seed: int) -> optuna.samplers.BaseSampler:
    importlib.import_module("cmaes")  # without this check Optuna would fail only at the second trial
    return optuna.samplers.CmaEsSampler(seed=seed)
