"""Which LoRA configuration should I use, on my data, on my hardware, and how sure can I be?"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorasweep.api import Leaderboard, load_results, plan, sweep
    from lorasweep.core.errors import LoraSweepError

__version__ = "0.1.0"
__all__ = ["Leaderboard", "LoraSweepError", "load_results", "plan", "sweep"]

HOMES = {"LoraSweepError": "lorasweep.core.errors"}  # of names that are not in `lorasweep.api`


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `import lorasweep` alone stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'lorasweep' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(HOMES.get(name, "lorasweep.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
