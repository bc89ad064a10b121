"""What an ideal converter costs is not known, and is said so."""

from __future__ import annotations

import math

import pytest

from crossbar_sim.errors import LedgerError
from crossbar_sim.presets import price_table


def test_the_energy_of_an_ideal_conversion_is_not_known() -> None:
    prices = price_table("isaac_horowitz")
    assert math.isnan(prices.energy("adc_conversion", "0b"))
    assert prices.energy("adc_conversion", "8b") > 0
    with pytest.raises(LedgerError, match="no price for 'adc_conversion\\.2b'"):
        prices.energy("adc_conversion", "2b")
