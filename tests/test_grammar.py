"""Hydra's sweep grammar is parsed into domains of a study."""

from typing import Any

import pytest

from lorasweep.config.grammar import Choice, Domain, Interval, parse, pinned_key, swept_expression


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("choice(4,8,16)", (4, 8, 16)),
        ("4,8", (4, 8)),
        ("choice(1e-4, 2r, true)", (1e-4, "2r", True)),
        ("choice(none,nf4)", ("none", "nf4")),
        ("choice([q_proj,v_proj],[q_proj])", ("[q_proj,v_proj]", "[q_proj]")),
        ("[q_proj, v_proj],[q_proj]", ("[q_proj,v_proj]", "[q_proj]")),
        ("choice(yes,no)", ("yes", "no")),
        ("choice('1',\"2\")", ("1", "2")),
        ("choice(4,8,4)", (4, 8)),
        ("sort(8,4)", (4, 8)),
        ("range(3,4)", (3,)),
        ("8", (8,)),
        ("qv", ("qv",)),
        (8, (8,)),
        (False, (False,)),
        (["q_proj", "v_proj"], ("[q_proj,v_proj]",)),
    ],
)
def test_choices_and_plain_values(text: Any, values: tuple[object, ...]) -> None:
    domain = parse("lora.r", text)
    assert isinstance(domain, Choice)
    assert domain.values == values
    assert [type(v) for v in domain.values] == [type(v) for v in values]


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("range(1,9)", Interval(low=1, high=8, is_int=True, step=1)),
        ("range(5)", Interval(low=0, high=4, is_int=True, step=1)),
        ("range(1,10,4)", Interval(low=1, high=9, is_int=True, step=4)),
        ("range(9,1,-2)", Interval(low=3, high=9, is_int=True, step=2)),
        ("range(0,1,0.3)", Interval(low=0, high=0.9, step=0.3)),
        ("interval(1,64)", Interval(low=1.0, high=64.0)),
        ("int(interval(1,64))", Interval(low=1, high=64, is_int=True)),
        ("tag(log,interval(1e-5,1e-2))", Interval(low=1e-5, high=1e-2, is_log=True)),
        ("tag(log, int(interval(1,64)))", Interval(low=1, high=64, is_int=True, is_log=True)),
        ("int(tag(log, interval(1,64)))", Interval(low=1, high=64, is_int=True, is_log=True)),
    ],
)
def test_ranges_stop_before_their_end_and_intervals_include_it(text: str, domain: Domain) -> None:
    assert parse("lora.r", text) == domain


def test_true_and_one_are_two_choices() -> None:
    domain = parse("x", "choice(true,1)")
    assert isinstance(domain, Choice)
    assert [type(v) for v in domain.values] == [bool, int]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("choice(null,4)", "`none` for null"),
        ("choice(4", "cannot be read"),
        ("choice()", "cannot be read"),
        ("interval(1)", "cannot be read"),
        ("no_such(1,2)", "cannot be read"),
        ("shuffle(choice(1,2))", "not seeded"),
        ("shuffle(range(1,5))", "not seeded"),
        ("range(9,1)", "is empty"),
        ("range(1,1)", "is empty"),
        ("interval(64,1)", "is empty"),
        ("tag(log,interval(0,1))", "must start above 0"),
        ("tag(lgo,interval(1,2))", "unknown tag 'lgo'"),
        ("tag(log,choice(1,2))", "unknown tag 'log'"),
        ("glob(*)", "matches files"),
        ("choice({a:1},{a:2})", "not a valid value for a setting"),
        ([4, 8], "is a list, not a search"),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_its_reason(text: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("(", r"\(")):
        parse("lora.r", text)


def test_a_range_leaves_no_value_out() -> None:
    domain = parse("x", "range(0.1,0.5,0.1)")
    assert domain == Interval(low=0.1, high=0.4, step=0.1)


@pytest.mark.parametrize(
    ("override", "swept"),
    [
        ("lora.r=4,8", ("lora.r", "4,8")),
        ("++lora.r=choice(4,8)", ("lora.r", "choice(4,8)")),
        ("lora.r=8", None),
        ("lora.target_modules=[q_proj,v_proj]", None),
        ("data.template='a, b'", None),
        ("~lora.r", None),
    ],
)
def test_an_override_is_a_sweep_or_it_is_not(override: str, swept: tuple[str, str] | None) -> None:
    assert swept_expression(override) == swept


def test_a_plain_override_pins_its_key() -> None:
    assert [pinned_key(o) for o in ("+lora.r=8", "lora.r=4,8", "~lora.r", "lora.r")] == ["lora.r", None, None, None]
