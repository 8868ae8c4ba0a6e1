"""Arrow's tables, batches, columns and buffers, which travel in Arrow's own stream format.

The sender writes the stream into lent memory, once; what arrives lies there, nothing is copied. Who
has no pyarrow gets an error that carries the stream's bytes.
(https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format)

pyarrow checks what it receives, but not against a sender that changes it afterwards: a table is as
trustworthy as the program that it comes from.
"""

from __future__ import annotations

from ._errors import Corrupt, Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The extension of MessagePack that stands for something of Arrow's.
ARROW = 5


def _pyarrow() -> Any:
    """Import it, with its part that knows streams; it has no types."""
    from importlib import import_module

    import_module("pyarrow.ipc")
    return import_module("pyarrow")


def describe(
    data: Any,
) -> tuple[int, Callable[[Any, int], None], int, tuple[object, ...], object]:
    """Give what `_arrays.describe` gives, for something of Arrow's.

    Raises:
        TypeError: pyarrow is not installed, or knows no stream for it.
    """
    try:
        pa: Any = _pyarrow()
    except ImportError as error:
        msg = "is Arrow data, for which pyarrow is needed, which is not installed here"
        raise TypeError(msg) from error
    if isinstance(data, pa.Buffer):
        return ARROW, _copying(memoryview(data)), data.size, (data.size, "buffer"), None
    form, table = _as_table(pa, data)

    def write(sink: Any) -> None:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)

    counted = pa.MockOutputStream()
    write(counted)
    size = counted.size()

    def fill(block: Any, offset: int) -> None:
        place = memoryview(block)[offset : offset + size]
        write(pa.FixedSizeBufferWriter(pa.py_buffer(place)))

    return ARROW, fill, size, (size, form), None


def _copying(view: Any) -> Callable[[Any, int], None]:
    def fill(block: Any, offset: int) -> None:
        memoryview(block)[offset : offset + view.nbytes] = view.cast("B")

    return fill


def _as_table(pa: Any, data: Any) -> tuple[str, Any]:
    try:
        if isinstance(data, pa.RecordBatch):
            return "batch", pa.Table.from_batches([data])
        if isinstance(data, pa.Array | pa.ChunkedArray):
            form = "array" if isinstance(data, pa.Array) else "chunked"
            return form, pa.table({"": data})
        return "table", pa.table(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        msg = f"is of the type {type(data).__qualname__}, of which pyarrow makes no table: {error}"
        raise TypeError(msg) from error


def make_arrow(part: memoryview, form: object) -> object:
    """Give what lies in lent memory as it was.

    Raises:
        Corrupt: nothing of that form lies there.
        Invalid: pyarrow is not installed; its `data` has the stream.
    """
    try:
        pa: Any = _pyarrow()
    except ImportError as error:
        msg = "a message with Arrow data, for which pyarrow is needed, which is not installed here"
        raise Invalid(msg, data=bytes(part)) from error
    buffer = pa.py_buffer(part)
    if form == "buffer":
        return buffer
    try:
        table = pa.ipc.open_stream(buffer).read_all()
        table.validate(full=True)
        if form == "table":
            return table
        if form == "batch":
            batches = table.to_batches()
            return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
        column = table.column(0)
        if form == "chunked":
            return column
        if form == "array":
            return column.chunk(0) if column.num_chunks else pa.array([], column.type)
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        msg = f"the other program sent Arrow data that is none: {error}"
        raise Corrupt(msg) from error
    msg = f"the other program sent Arrow data of the form {form!r}"
    raise Corrupt(msg)
