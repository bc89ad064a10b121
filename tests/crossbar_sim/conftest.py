"""Cards with parts of their physics taken away."""

from dataclasses import replace

import numpy as np
import pytest

from crossbar_sim import preset
from crossbar_sim.device import ReadNoise, Relaxation


@pytest.fixture(scope="session")
def card():
    """card(name, relaxation=..., noise=..., **parts): a shipped card; parts replace sections or their entries."""

    def make(name="hfo2_neurram", *, relaxation=False, noise=False, **parts):
        chosen = preset(name)
        if not relaxation:
            chosen = replace(chosen, relaxation=Relaxation())
        if not noise:
            chosen = replace(chosen, read_noise=ReadNoise())
        for part, value in parts.items():
            new = replace(getattr(chosen, part), **value) if isinstance(value, dict) else value
            chosen = replace(chosen, **{part: new})
        return chosen

    return make


@pytest.fixture(scope="session")
def adc():
    """adc(y, low, high, bits): the converter of docs/design.md, section 4, as it is written there; 0 bits convert nothing."""

    def convert(y, low, high, bits):
        if not bits:
            return y
        steps = (2**bits - 1) / (high - low)
        return low + np.rint((np.clip(y, low, high) - low) * steps) / steps

    return convert
