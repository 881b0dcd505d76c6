"""What is printed about the time that training still takes."""

import pytest

from repel.monitoring.progress import _clock


@pytest.mark.parametrize(("seconds", "shown"), [
    (0, "0:00"), (-3.2, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (1379.7, "23:00"),
    (3599.4, "59:59"), (3599.6, "1:00:00"), (3723, "1:02:03"), (90000, "25:00:00"),
])  # fmt: skip
def test_the_time_left(seconds, shown):
    assert _clock(seconds) == shown
