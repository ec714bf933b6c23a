"""Arms and cameras behind the protocols: simulated ones here, vendors' in modules that import their SDK on use."""

from pointworld.control.backends.fake import FakeRobot as FakeRobot
