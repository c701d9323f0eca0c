"""Find settings of the winner at an end of the swept range, and overrides that extend the range."""

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorasweep.config.constraints import rule_of
from lorasweep.config.grammar import Domain, Interval
from lorasweep.config.space import values_of
from lorasweep.core.trial import Scalar

# Ordered settings, by how their range is extended: by a factor or by a step.
BY_FACTOR = (
    "lora.r", "lora.lora_alpha", "train.learning_rate", "train.weight_decay", "train.num_train_epochs",
    "train.max_steps", "train.per_device_train_batch_size", "train.gradient_accumulation_steps",
)  # fmt: skip
BY_STEP = ("lora.lora_dropout", "train.warmup_steps")
WHOLE = ("lora.r", "train.max_steps", "train.per_device_train_batch_size", "train.gradient_accumulation_steps")
NEAR = 0.05  # share of an interval's width, on its own scale, that counts as its end
MOST_MORE = 2  # new values in an override
MOST_FACTOR = 10.0
MOST_HALVINGS = 5  # of a step to a value that is not allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A setting whose best value is the smallest or largest swept value; `override` extends the range."""

    key: str
    value: Scalar
    is_upper: bool
    is_exact: bool  # False: near the end of an interval
    override: str

    @property
    def place(self) -> str:
        """Describe the position of the value in the swept range."""
        if self.is_exact:
            return "the largest" if self.is_upper else "the smallest"
        return f"near the {'upper' if self.is_upper else 'lower'} end"


def edges(settings: Mapping[str, Any], domains: Mapping[str, Domain]) -> tuple[Edge, ...]:
    """Return the edges among a trial's settings; a natural end, such as a dropout of 0, does not count."""
    found = (_edge(key, settings[key], domain) for key, domain in domains.items() if key in settings)
    return tuple(edge for edge in found if edge)


def _edge(key: str, value: Scalar, domain: Domain) -> Edge | None:
    if key not in (*BY_FACTOR, *BY_STEP):
        return None
    if isinstance(domain, Interval) and domain.step is None:
        return _of_interval(key, value, domain)
    return _of_values(key, value, values_of(domain))


def _of_values(key: str, value: Scalar, swept: tuple[Scalar, ...]) -> Edge | None:
    unit = "r" if key == "lora.lora_alpha" and all(_is_multiple(v) for v in swept) else ""
    try:
        numbers = sorted({_number(v, unit) for v in swept})
        here = _number(value, unit)
    except ValueError:  # plain alphas and multiples of r have no common order
        return None
    if len(numbers) < 2 or here not in (numbers[0], numbers[-1]):
        return None
    is_upper = here == numbers[-1]
    last, before = (here, numbers[-2]) if is_upper else (here, numbers[1])
    more = list(_beyond(key, last, before))
    if not more:
        return None
    listed = ",".join(f"{_written(number)}{unit}" for number in sorted([last, *more]))
    return Edge(key=key, value=value, is_upper=is_upper, is_exact=True, override=shlex.quote(f"{key}={listed}"))


def _beyond(key: str, last: float, before: float) -> Iterator[float]:
    """Yield the next allowed values in the direction from `before` to `last`."""
    by_factor = key in BY_FACTOR and before > 0 and last > 0
    step = _log_factor(last, before) if by_factor else last - before
    for _ in range(MOST_MORE):
        for _ in range(MOST_HALVINGS):
            value = _rounded(key, last * math.exp(step) if by_factor else last + step)
            if not by_factor and value < 0 < last:
                value = 0.0
            if _is_allowed(key, last, value) and value != last:
                break
            step /= 2
        else:
            return
        yield value
        last = value


def _log_factor(last: float, before: float) -> float:
    """Return the logarithm of the factor between two values, limited to MOST_FACTOR in either direction."""
    return max(-math.log(MOST_FACTOR), min(math.log(MOST_FACTOR), math.log(last / before)))


def _of_interval(key: str, value: Scalar, domain: Interval) -> Edge | None:
    low, high = (math.log(x) if domain.is_log else x for x in (domain.low, domain.high))
    here = math.log(float(value)) if domain.is_log else float(value)
    share = (here - low) / (high - low)
    if NEAR < share < 1 - NEAR:
        return None
    is_upper = share > 0.5
    half = (high - low) / 2
    for _ in range(MOST_HALVINGS):
        ends = (low + half, high + half) if is_upper else (low - half, high - half)
        numbers = [_rounded(key, math.exp(x) if domain.is_log else x, domain.is_int) for x in ends]
        if all(_is_allowed(key, domain.low, number) for number in numbers) and numbers[0] < numbers[1]:
            override = shlex.quote(f"{key}={_expression(numbers, domain)}")
            is_exact = float(value) in (domain.low, domain.high)
            return Edge(key=key, value=value, is_upper=is_upper, is_exact=is_exact, override=override)
        half /= 2
    return None


def _expression(numbers: list[float], domain: Interval) -> str:
    text = f"interval({','.join(_written(number) for number in numbers)})"
    return f"tag(log,{text})" if domain.is_log else f"int({text})" if domain.is_int else text


def _is_allowed(key: str, last: float, value: float) -> bool:
    """Return whether the value is allowed. A warm-up below 1 is a share of the steps, from 1 on it counts steps."""
    is_same_kind = key != "train.warmup_steps" or (value < 1) == (last < 1)
    rule = rule_of(key)
    return is_same_kind and (rule is None or rule[0](value))


def _rounded(key: str, value: float, is_int: bool = False) -> float:
    if is_int or key in WHOLE:
        return float(round(value))
    return float(f"{value:.4g}")


def _written(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)


def _is_multiple(value: Scalar) -> bool:
    return isinstance(value, str) and value.strip().endswith("r")


def _number(value: Scalar, unit: str) -> float:
    text = str(value).strip()
    return float(text.removesuffix("r").removesuffix("*") or 1) if unit else float(text)
