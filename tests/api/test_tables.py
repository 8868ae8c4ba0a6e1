"""What other libraries call arrays: Arrow's tables and buffers, tensors of the DLPack protocol."""

import gc
import subprocess
import sys
import textwrap

import alongside
import numpy as np
import pytest

from tests.conftest import HEAD

pa = pytest.importorskip("pyarrow")

TABLE = pa.table(
    {
        "number": [1, 2, None],
        "text": ["a", None, "long " * 100],
        "list": [[1], [], [2, 3]],
        "time": pa.array([0, 1, 2], pa.timestamp("us", "UTC")),
    }
)


class Tensor:
    """A tensor of a library that knows nothing but DLPack."""

    def __init__(self, array, device=(1, 0)):
        self.array = array
        self.device = device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


@pytest.mark.parametrize(
    "sent",
    [
        TABLE,
        TABLE.slice(1, 1),
        TABLE.schema.empty_table(),
        pa.concat_tables([TABLE, TABLE]),
        TABLE.to_batches()[0],
        pa.RecordBatch.from_pylist([], schema=TABLE.schema),
        pa.array([1.5, None]),
        pa.array([], pa.int32()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.chunked_array([[1, 2], [], [3]]),
        pa.py_buffer(b"some bytes"),
    ],
    ids=lambda sent: type(sent).__name__,
)
def test_arrow_data_arrives_as_it_was(echo, sent):
    echo.send([sent, {"again": sent}])
    first, second = echo.receive()
    assert type(first) is type(sent)
    assert first.equals(sent)
    assert second["again"].equals(sent)


def test_an_arrow_table_lies_in_the_memory_it_arrived_in(echo):
    wide = pa.table({"a": np.arange(1_000_000)})
    echo.send(wide)
    before = pa.total_allocated_bytes()
    got = echo.receive()
    assert pa.total_allocated_bytes() - before < 100_000
    assert got["a"].chunk(0).buffers()[1].size >= 8_000_000
    assert got.equals(wide)
    column = got["a"]
    del got
    gc.collect()
    assert column[-1].as_py() == 999_999


def test_what_says_it_can_become_a_table_arrives_as_one(echo):
    class Frame:
        def __arrow_c_stream__(self, requested_schema=None):
            return TABLE.__arrow_c_stream__(requested_schema)

    echo.send(Frame())
    assert echo.receive().equals(TABLE)


def test_arrow_data_without_pyarrow_is_an_error_that_has_it_all():
    source = """
        sys.modules["pyarrow"] = None
        try:
            s.receive()
        except alongside.Invalid as error:
            s.send([str(error), error.data])
    """
    with alongside.start([sys.executable, "-c", HEAD + textwrap.dedent(source)]) as session:
        session.send(TABLE)
        text, data = session.receive()
        assert "pyarrow is needed" in text
        assert pa.ipc.open_stream(data).read_all().equals(TABLE)


@pytest.mark.parametrize("sent", [np.arange(6.0).reshape(2, 3), np.arange(6).reshape(2, 3).T])
def test_a_tensor_arrives_as_an_array(echo, sent):
    echo.send({"tensor": Tensor(sent)})
    got = echo.receive()["tensor"]
    assert got.dtype == sent.dtype
    assert (got == sent).all()


def test_a_tensor_over_lent_memory_moves_nothing(program):
    session = program("kept = list(s)")
    with session.lend(100_000, "f4") as lent:
        before = session.lent_bytes
        session.send(Tensor(lent))
        assert session.lent_bytes == before


@pytest.mark.parametrize("device", [(2, 0), (8, 1)])
def test_a_tensor_elsewhere_is_refused(echo, device):
    with pytest.raises(TypeError, match=r"data\['a'\] lies on the device"):
        echo.send({"a": Tensor(np.arange(3), device)})


def test_a_tensor_that_numpy_does_not_take_is_refused(echo):
    class Broken(Tensor):
        def __dlpack__(self, **_options):
            raise BufferError("requires grad")

    with pytest.raises(TypeError, match="requires grad"):
        echo.send(Broken(None))


def test_a_tensor_of_torch_arrives_as_an_array(echo):
    torch = pytest.importorskip("torch")
    echo.send([torch.arange(6, dtype=torch.float32).reshape(2, 3), torch.ones(3).bool()])
    first, second = echo.receive()
    assert first.dtype == np.float32
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.tolist() == [True] * 3
    with pytest.raises(TypeError, match="grad"):
        echo.send(torch.ones(3, requires_grad=True))
    with pytest.raises(TypeError, match=r"bfloat16|BFloat16|not take"):
        echo.send(torch.ones(3, dtype=torch.bfloat16))


def test_pyarrow_is_loaded_by_nothing_but_arrow_data():
    source = "import alongside, sys; alongside.start; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert done.stdout == b"False\n"
