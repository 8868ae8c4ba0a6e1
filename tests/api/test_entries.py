"""Entry files of any contents: passed over or believed, never followed, never a program's end."""

import json
import os

import alongside
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("scope")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture
def entry(scope):
    """Publish a name, and give its file; what is in it is changed behind the program's back."""
    with alongside.publish("honest", lambda data, session: None, about="words"):
        (path,) = scope.joinpath("names").iterdir()
        yield path, path.read_bytes()


def look(entry, contents):
    """Put contents in an entry's place, and see what everybody who looks makes of it."""
    path, _ = entry
    path.write_bytes(contents)
    found = alongside.running()
    for each in found:
        # Whatever is believed can be shown and asked.
        assert repr(each)
        assert each.peer.pid >= 0
        assert isinstance(each.info, dict)
        assert isinstance(each.about, str)
    with alongside.watch() as watch:
        seen = []
        for _ in found:
            seen.append(watch.next(timeout=60).entry)
        assert seen == found
    alongside._core.flaws("user")
    return found


settings_here = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(data=st.data())
@settings_here
def test_bytes_that_were_changed_end_nothing(entry, data):
    whole = bytearray(entry[1])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "put in", "end"]))
        if how == "flip":
            whole[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del whole[at : at + data.draw(st.integers(1, 30))]
        elif how == "put in":
            whole[at:at] = data.draw(st.binary(max_size=30))
        else:
            del whole[at:]
        if not whole:
            break
    look(entry, bytes(whole))


@given(contents=st.binary(max_size=5000))
@settings_here
def test_any_bytes_end_nothing(entry, contents):
    assert look(entry, contents) == []
    assert entry[0].exists(), "what cannot be understood is not removed"


@given(data=st.data())
@settings_here
def test_fields_of_any_value_end_nothing(entry, data):
    whole = json.loads(entry[1])
    name = data.draw(st.sampled_from(sorted(whole)))
    whole[name] = data.draw(JSON)
    look(entry, json.dumps(whole).encode("utf-8", "surrogatepass"))


def test_an_entry_that_names_another_place_is_never_followed(entry, tmp_path):
    """Its life and its instance are parts of paths, so they are digits or nothing."""
    tmp_path.joinpath("outside").touch()
    path, original = entry
    whole = json.loads(original)
    for field in ("life", "instance"):
        for value in ("../../outside", "/etc/passwd", "", ".", "0" * 15, "0" * 17, "G" * 16):
            assert look(entry, json.dumps({**whole, field: value}).encode()) == []
    path.unlink()
    path.symlink_to(tmp_path / "outside")
    assert alongside.running() == []
    path.unlink()
    os.mkfifo(path)
    assert alongside.running() == []
