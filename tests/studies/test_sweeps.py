"""Products, zips and chains."""

import pytest

from studies import chain, point, product, sweep, zipped

RATES = sweep("optimizer.learning_rate", [0.1, 0.2])
SEEDS = sweep("seed", [0, 1])


def pairs(points):
    return [(p.fields["optimizer.learning_rate"], p.fields["seed"]) for p in points]


def test_product():
    found = product(RATES, SEEDS)
    assert pairs(found) == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    assert found[1].name == "learning_rate=0.1, seed=1"
    assert product(point("kd", {"a": 1}), point(""))[0].name == "kd"


def test_zip():
    assert pairs(zipped(RATES, SEEDS)) == [(0.1, 0), (0.2, 1)]
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
        zipped(RATES, sweep("seed", range(3)))


def test_chain():
    assert len(chain(RATES, SEEDS)) == 4
    with pytest.raises(ValueError, match="twice"):
        chain(RATES, RATES)


def test_a_field_is_set_once():
    with pytest.raises(ValueError, match="seed"):
        product(SEEDS, point("more", {"seed": 4}))
