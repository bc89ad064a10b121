"""Settings of all tests."""

from hypothesis import settings

# the first example compiles kernels, so an example's time says nothing about the code
settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")
