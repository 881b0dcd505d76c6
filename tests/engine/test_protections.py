"""The table of protections is of today's sources; `make mutations` runs it."""

import re

import pytest
from conftest import ROOT
from mutations import changed
from protections import PROTECTIONS


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda protection: protection.name)
def test_each_protection_can_be_switched_off_and_its_tests_exist(protection):
    source = (ROOT / protection.file).read_text(encoding="utf-8")
    without = changed(source, protection)
    assert without != source
    if protection.file.endswith(".py"):
        compile(without, protection.file, "exec")
    for test in protection.tests:
        file, name = test.split("[")[0].split("::")
        assert re.search(rf"def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8")), test


def test_a_change_that_no_longer_fits_is_an_error():
    with pytest.raises(ValueError, match="stands 0 times"):
        changed("", PROTECTIONS[0])
