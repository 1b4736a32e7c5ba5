"""Buffers, buffer views and accessors: every range is checked before it is read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipart.errors import Reject
from unipart.geometry.formats.files import AssetFolder
from unipart.geometry.formats.gltf_container import Container, pick
from unipart.geometry.formats.gltf_schema import Accessor, BufferView, Sparse
from unipart.geometry.formats.scene import check_indices

_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_OUTSIDE = "accessor_out_of_bounds"
_MAX_ZEROS = 1_000_000
"""Elements that may be read, over all accessors, without a byte in the file."""


class BufferReader:
    """Reads arrays out of a container's buffers; a buffer is opened when it is first needed.

    Args:
        container: the parsed file.
        folder: opens side files.
    """

    def __init__(self, container: Container, folder: AssetFolder) -> None:
        self._document = container.document
        self._binary = container.binary
        self._folder = folder
        self._buffers: dict[int, bytes] = {}
        self._num_zeros = 0

    def accessor(self, index: int) -> NDArray[Any]:
        """Returns the accessor's elements [count width] in their stored type, sparse replacements applied.

        Raises:
            Reject: ``accessor_out_of_bounds``, ``missing_buffer``, ``truncated_buffer``, ``uri_escape``,
                ``declared_size_exceeds_limit``.
        """
        accessor = self._spec(index)
        if accessor.type not in _WIDTHS:
            raise Reject("invalid_gltf", f"accessor {index} has type {accessor.type}, which no attribute uses")
        dtype, width = np.dtype(_DTYPES[accessor.component_type]), _WIDTHS[accessor.type]
        if accessor.buffer_view is None:
            self._num_zeros += accessor.count
            if self._num_zeros > _MAX_ZEROS:
                told = f"accessors without a buffer view stand for {self._num_zeros} elements, at most {_MAX_ZEROS} are read"
                raise Reject("declared_size_exceeds_limit", told)
            values = np.zeros((accessor.count, width), dtype=dtype)
        else:
            values = self._elements(accessor.buffer_view, accessor.byte_offset, accessor.count, width, dtype)
        if accessor.sparse is not None:
            values = self._replace_sparse(values, accessor.sparse, dtype)
        return values

    def floats(self, index: int, is_normalised: bool | None = None) -> NDArray[np.float64]:
        """Returns an accessor as float64; normalised integers become 0..1 or -1..1 (glTF 2.0, section 3.11).

        Args:
            index: of the accessor.
            is_normalised: overrides the accessor's own flag.

        Raises:
            Reject: as `accessor`.
        """
        values = self.accessor(index)
        flag = self._spec(index).normalized if is_normalised is None else is_normalised
        return normalise(values) if flag else values.astype(np.float64)

    def count(self, index: int) -> int:
        """Returns how many elements an accessor declares; nothing is read.

        Raises:
            Reject: ``accessor_out_of_bounds``.
        """
        return self._spec(index).count

    def view(self, index: int) -> bytes:
        """Returns the bytes of a buffer view.

        Raises:
            Reject: as `accessor`.
        """
        return bytes(self._view(index)[1])

    def _spec(self, index: int) -> Accessor:
        return pick(self._document.accessors, index, "accessor", _OUTSIDE)

    def _view(self, index: int) -> tuple[BufferView, memoryview]:
        view = pick(self._document.buffer_views, index, "buffer view", _OUTSIDE)
        buffer = self._buffer(view.buffer)
        end = view.byte_offset + view.byte_length
        if end > len(buffer):
            raise Reject(_OUTSIDE, f"buffer view {index} ends at byte {end}, its buffer has {len(buffer)}")
        return view, memoryview(buffer)[view.byte_offset : end]

    def _elements(self, view_index: int, offset: int, count: int, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        view, data = self._view(view_index)
        item = dtype.itemsize * width
        stride = view.byte_stride or item
        if stride < item:
            raise Reject("invalid_gltf", f"buffer view {view_index} has a stride of {stride} for elements of {item} bytes")
        end = offset + stride * (count - 1) + item if count else offset
        if end > len(data):
            raise Reject(_OUTSIDE, f"an accessor ends at byte {end} of buffer view {view_index}, which has {len(data)}")
        if count == 0:
            return np.zeros((0, width), dtype=dtype)
        strided = np.ndarray((count, width), dtype=dtype, buffer=data, offset=offset, strides=(stride, dtype.itemsize))
        return strided.copy()

    def _replace_sparse(self, values: NDArray[Any], sparse: Sparse, dtype: np.dtype[Any]) -> NDArray[Any]:
        index_type = np.dtype(_DTYPES[sparse.indices.component_type])
        where = self._elements(sparse.indices.buffer_view, sparse.indices.byte_offset, sparse.count, 1, index_type)[:, 0]
        check_indices(where, len(values), "sparse elements")
        width = values.shape[1]
        values[where] = self._elements(sparse.values.buffer_view, sparse.values.byte_offset, sparse.count, width, dtype)
        return values

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            self._buffers[index] = self._open_buffer(index)
        return self._buffers[index]

    def _open_buffer(self, index: int) -> bytes:
        buffer = pick(self._document.buffers, index, "buffer", _OUTSIDE)
        if buffer.uri is not None:
            data, name = self._folder.read(buffer.uri), buffer.uri[:80]
        else:
            data, name = (self._binary if index == 0 else None), "the GLB's binary chunk"
        if data is None:
            raise Reject("missing_buffer", f"buffer {index}: {name} does not exist")
        if len(data) < buffer.byte_length:
            raise Reject("truncated_buffer", f"buffer {index} declares {buffer.byte_length} bytes, {name} has {len(data)}")
        return data


def normalise(values: NDArray[Any]) -> NDArray[np.float64]:
    """Maps the integers of a normalised accessor to 0..1 (unsigned) or -1..1 (signed); floats are kept."""
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    return np.maximum(values / float(np.iinfo(values.dtype).max), -1.0)
