"""Cards with parts of their physics taken away."""

from dataclasses import replace

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
