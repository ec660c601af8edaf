"""Where the stores of these tests are: the places of `tests/storage`."""

from tests.storage.conftest import place as place
