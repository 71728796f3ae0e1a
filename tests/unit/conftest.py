"""Settings for the unit tests."""

from hypothesis import settings

# How fast an example runs says something of the machine, nothing of the code.
settings.register_profile("marginguard", deadline=None)
settings.load_profile("marginguard")
