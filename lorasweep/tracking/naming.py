"""Names of runs: a sweep has its own name, or one made of its data and settings; a trial is named by its values."""

import re
from collections.abc import Mapping
from pathlib import PurePath

from lorasweep.config.grammar import Choice, Domain
from lorasweep.config.settings import SweepConfig
from lorasweep.core.spec import DEMO_FILES
from lorasweep.core.trial import Trial, short_name

MAX_CHARS = 60  # of a run's name, which also names its folder
UNINFORMATIVE = ("train", "data", "dataset", "default")  # for these file names the folder's name is used


def run_name(config: SweepConfig, domains: Mapping[str, Domain]) -> str:
    """Return `sweep.name`; if it is not set, the data, the swept settings and their values."""
    if config.sweep.name:
        return config.sweep.name
    parts = [_data_name(config.data.train)]
    parts += [_swept(key, domain) for key, domain in domains.items()] or [PurePath(config.model.id).name]
    name = "-".join(filter(None, map(_plain, parts)))
    return name if len(name) <= MAX_CHARS else name[:MAX_CHARS].rstrip("._-")


def trial_name(trial: Trial) -> str:
    """Return `trial-003 r=8 learning_rate=0.001`."""
    return f"{plain_name(trial.number)} {trial.text}".rstrip()[:250]


def plain_name(number: int) -> str:
    """Return the name of a trial whose parameters are not known: `trial-003`."""
    return f"trial-{number:03d}"


def _data_name(source: str) -> str:
    """Return the name of a training file or hub data set, without folder, slice and extension."""
    path = PurePath(re.sub(r"\[[^\]]*\]$", "", source.removeprefix(DEMO_FILES)))
    if not path.suffix:
        return path.name.partition(":")[0]
    return path.parent.name if path.stem in UNINFORMATIVE and path.parent.name else path.stem


def _swept(key: str, domain: Domain) -> str:
    if isinstance(domain, Choice):
        return "_".join([short_name(key), *map(str, domain.values)])
    return f"{short_name(key)}_{domain.low:g}_to_{domain.high:g}"


def _plain(text: str) -> str:
    """Replace all but letters, digits and dots by underscores, so that the name needs no quotes in a shell."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("._")
