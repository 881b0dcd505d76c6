"""Parts of a user's own package, by a name typed and by a file; test_wheel.py takes them all the way."""

import pytest
from conftest import check_mistake, command
from own_package import QUICK


@pytest.mark.slow
def test_a_name_typed_without_a_yaml(own_package):
    """One's own class on the command line; a name of it that is not there is named."""
    typed = ["encoder._target_=mine.parts.Tiny", *QUICK, "evaluators=[]", "trainer.limit_train_batches=1"]
    result = command("train.py", *typed, cwd=own_package)
    assert result.returncode == 0, result.stderr
    check_mistake(command("train.py", *typed, "encoder._target_=mine.parts.Tyni", cwd=own_package), ["has no Tyni"])
    check_mistake(command("train.py", *typed, "encoder._target_=yours.Tiny", cwd=own_package), ["no package yours"])


def test_a_choice_of_ones_own_is_suggested(own_package):
    check_mistake(command("train.py", "--config-dir=conf", "encoder=tinny", cwd=own_package), ["did you mean tiny?"])
    check_mistake(command("train.py", "--config-dir=conf", "encoder=tiny", "encoder.width=x", cwd=own_package),
                  ["encoder.width must be a whole number"])  # fmt: skip
