"""Every reader on damaged content: it reads something valid or says what is wrong."""

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_energy.recording.recording import TokenCounter
from tests.hostile import made
from tests.hostile.readers import Readers


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return Readers(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("name", made.NAMES)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
def test_valid_content_with_places_changed(readers: Readers, name: str, seed: int) -> None:
    readers.by_name[name](made.hostile(name, random.Random(seed)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.parametrize("name", made.NAMES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200) | _JSON.map(lambda value: str(value).encode(errors="replace"))
)
def test_anything_else(readers: Readers, name: str, content: bytes) -> None:
    readers.by_name[name](content)


def test_the_seeds_are_read_and_judged(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would test the refusals alone."""
    reached: list[str] = []
    report, pages = readers._report, readers._pages
    monkeypatch.setattr(
        readers, "_report", lambda *arguments: (reached.append("judged"), report(*arguments))
    )
    monkeypatch.setattr(
        readers, "_pages", lambda reported: (reached.append("reported"), pages(reported))
    )
    for number, times in ((0, 44), (1, 22), (2, 44)):
        reached.clear()
        readers.by_name["recording"](made.packed_seed(number))
        assert reached.count("judged") > times / 4
        assert "reported" in reached
    for name in ("baseline", "noise", "results"):
        reached.clear()
        readers.by_name[name](made.seed(name))
        assert reached


_GUARDS = {
    "pytest_energy.recording.recording_file._unpack": ("recording", gzip.decompress),
    "pytest_energy.safety.untrusted.parse": ("baseline", json.loads),
    "pytest_energy.engines.running_server.served_models": (
        "answers",
        lambda answer: json.loads(answer)["data"],
    ),
    "pytest_energy.engines.server_load.first_choice": ("stream", lambda chunk: chunk["choices"][0]),
    "pytest_energy.engines.engine.tokens_from_steps": (
        "events",
        lambda steps: TokenCounter(**steps),
    ),
}


@pytest.mark.parametrize("guard", _GUARDS)
def test_without_a_guard_there_is_a_failure(
    readers: Readers, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """So the tests above would see it go."""
    name, instead = _GUARDS[guard]
    monkeypatch.setattr(guard, instead)
    assert any(_fails(readers, name, seed) for seed in range(3000))


def _fails(readers: Readers, name: str, seed: int) -> bool:
    try:
        readers.by_name[name](made.hostile(name, random.Random(seed)))
    except Exception:
        return True
    return False


def test_files_are_never_left_open(readers: Readers) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for seed in range(100):
        readers.by_name["recording"](made.hostile("recording", random.Random(seed)))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
