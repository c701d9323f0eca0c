"""Advice for sweeps that varied only settings that act like the learning rate."""

from collections.abc import Iterator, Sequence

from lorasweep.core.result import TrialResult
from lorasweep.report.figures import setting
from lorasweep.report.settings import labels

LIKE_RATE = {"lora.r", "lora.lora_alpha", "lora.use_rslora"}


def through_rate(results: Sequence[TrialResult], swept: Sequence[str]) -> Iterator[str]:
    """Yield a sentence if only rank and scale were swept, at one learning rate.

    B begins at zero and Adam's steps do not grow with the gradient, so the first changes of the weights are
    proportional to the learning rate times alpha/r.
    """
    rates = {result.spec.train.learning_rate for result in results}
    if not swept or not set(swept) <= LIKE_RATE or len(rates) != 1:
        return
    names, rate = " and ".join(labels(swept).values()), setting(float(rates.pop()))
    scales = sorted({result.spec.lora.scale for result in results} - {None})  # type: ignore[type-var]
    if len(scales) > 1:
        yield (
            f"All trials have one learning rate ({rate}), and {names} changed alpha/r, from {setting(scales[0])} to "
            f"{setting(scales[-1])}: with Adam, alpha/r multiplies the first updates of the weights as the learning "
            "rate does, so a difference may come from the step size alone; sweep train.learning_rate too to find out."
        )
    else:
        yield (
            f"All trials have one learning rate ({rate}) and one alpha/r ({setting(scales[0])}): {names} is compared "
            "at this step size only; sweep train.learning_rate too to compare each value at its best rate."
        )
