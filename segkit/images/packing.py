"""What the chunks of a Zarr are unpacked with: known codecs alone, and none of them to more than a chunk can hold.

A Zarr names its codecs itself, and one of numcodecs' is pickle, which runs what it reads. And a few bytes can be packed so that they
unpack to gigabytes. So each codec of an array is either one of those below, or the array is refused before any chunk is read.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import zarr
import zstandard
from numcodecs.abc import Codec as Numcodec
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer

from segkit.errors import ImageFormatError, ImageTooLargeError

#: Unpacked at a time where only unpacking tells how much there is.
PIECE = 2**20
#: Beside its pixels a chunk may hold checksums and an index.
SPARE = 2**16
#: Codecs that change bytes and not how many there are, or at most eightfold (packbits): they need no bound of their own.
PLAIN = {"adler32", "astype", "bitround", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32", "jenkins_lookup3", "packbits"}
PLAIN |= {"quantize", "shuffle"}
#: Zarr 3's own codecs, by the name of what packs the same in numcodecs.
PACKERS: dict[type[Codec], str] = {BloscCodec: "blosc", GzipCodec: "gzip", ZstdCodec: "zstd"}
UNBOUND = (BytesCodec, Crc32cCodec, TransposeCodec)
BOMB = "One of its chunks unpacks to more than its pixels need. It is damaged, or was made to use up memory."


def bounded(array: zarr.Array) -> zarr.Array:
    """Return the same array, whose chunks unpack to what they may hold and no further.

    Raises
    ------
    ImageFormatError
        It is packed in a way that is not known, or not safe.
    """
    metadata: Any = array.metadata
    most = prod(array.chunks) * array.dtype.itemsize + SPARE
    if metadata.zarr_format == 2:
        filters = tuple(_numcodec(each, most) for each in metadata.filters or ()) or None
        packer = None if metadata.compressor is None else _numcodec(metadata.compressor, most)
        metadata = replace(metadata, filters=filters, compressor=packer)
    else:
        metadata = replace(metadata, codecs=tuple(map(_codec, metadata.codecs)))
    return zarr.Array(type(array.async_array)(metadata, array.async_array.store_path, array.async_array.config))


def _numcodec(codec: Any, most: int) -> Any:
    name = codec.codec_id
    if name in PLAIN:
        return codec
    if name not in HOLDS:
        raise ImageFormatError(_unknown(name))
    return BoundedNumcodec(codec, most)


def _codec(codec: Any) -> Any:
    if isinstance(codec, ShardingCodec):
        return replace(codec, codecs=tuple(map(_codec, codec.codecs)), index_codecs=tuple(map(_codec, codec.index_codecs)))
    name = PACKERS.get(type(codec)) or getattr(codec, "codec_name", "").removeprefix("numcodecs.")
    if isinstance(codec, UNBOUND) or name in PLAIN:
        return codec
    if name not in HOLDS:
        raise ImageFormatError(_unknown(name or type(codec).__name__))
    return BoundedCodec(codec, name)


def _unknown(name: str) -> str:
    return f'Its chunks are packed with "{name}", which is not unpacked. Save it with zstd, blosc or gzip.'


def refuse_bomb(name: str, packed: Any, most: int) -> None:
    """Refuse bytes that unpack to more than a number of bytes, without unpacking more than that.

    Raises
    ------
    ImageTooLargeError
        They do.

    Examples
    --------
    >>> refuse_bomb("zlib", zlib.compress(bytes(1000)), 1000)
    >>> refuse_bomb("zlib", zlib.compress(bytes(1001)), 1000)
    Traceback (most recent call last):
    segkit.errors.ImageTooLargeError: One of its chunks unpacks to more than its pixels need. It is damaged, or was made to use up memory.
    """
    if HOLDS[name](memoryview(packed).cast("B"), most) > most:
        raise ImageTooLargeError(BOMB)


def _announced(first: int) -> Callable[[memoryview, int], int]:
    """Read how many bytes a header announces, as four bytes from `first` on; no codec of these unpacks more."""
    return lambda packed, most: int.from_bytes(packed[first : first + 4], "little")


def _of_zstd(packed: memoryview, most: int) -> int:
    try:
        announced = zstandard.frame_content_size(packed)
    except zstandard.ZstdError:
        return 0  # it is none, as numcodecs will say
    if announced >= 0:
        return announced
    count = 0
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
        try:
            while count <= most and (piece := reader.read(PIECE)):
                count += len(piece)
        except zstandard.ZstdError:
            return count
    return count


def _counting(begin: Callable[[], Any], fault: type[Exception] | tuple[type[Exception], ...]) -> Callable[[memoryview, int], int]:
    """Unpack piece by piece and count, member after member; what is damaged is for the codec itself to tell."""

    def count(packed: memoryview, most: int) -> int:
        found, rest = 0, bytes(packed)
        while rest and found <= most:
            unpacker = begin()
            while not unpacker.eof and found <= most:
                try:
                    piece = unpacker.decompress(rest, PIECE)
                except fault:
                    return found
                rest = getattr(unpacker, "unconsumed_tail", b"")
                if not piece and not unpacker.eof:
                    return found
                found += len(piece)
            rest = unpacker.unused_data
        return found

    return count


#: How many bytes something unpacks to, by the name of what it was packed with; it looks no further than `most`.
HOLDS: dict[str, Callable[[memoryview, int], int]] = {
    "blosc": _announced(4),
    "lz4": _announced(0),
    "zstd": _of_zstd,
    "zlib": _counting(zlib.decompressobj, zlib.error),
    "gzip": _counting(lambda: zlib.decompressobj(wbits=31), zlib.error),
    "bz2": _counting(bz2.BZ2Decompressor, (OSError, ValueError)),
    "lzma": _counting(lzma.LZMADecompressor, lzma.LZMAError),
}


class BoundedNumcodec(Numcodec):
    """A codec of Zarr 2 that unpacks so much and no more."""

    codec_id = "segkit-bounded"

    def __init__(self, codec: Any, most: int) -> None:
        self._codec, self._most = codec, most

    def encode(self, buffer: Any) -> Any:
        """Pack, as the codec does."""
        return self._codec.encode(buffer)

    def decode(self, buffer: Any, out: Any = None) -> Any:
        """Unpack.

        Raises
        ------
        ImageTooLargeError
            It would be more than a chunk holds.
        """
        refuse_bomb(self._codec.codec_id, buffer, self._most)
        return self._codec.decode(buffer, out)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the codec."""
        config: dict[str, Any] = self._codec.get_config()
        return config


@dataclass(frozen=True)
class BoundedCodec(BytesBytesCodec):
    """A codec of Zarr 3 that unpacks what its chunk may hold and no more."""

    codec: Any
    name: str
    is_fixed_size = False

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        most = prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize + SPARE
        await asyncio.to_thread(refuse_bomb, self.name, chunk_data.as_array_like(), most)
        unpacked: Buffer = await self.codec._decode_single(chunk_data, chunk_spec)
        return unpacked

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        packed: Buffer | None = await self.codec._encode_single(chunk_data, chunk_spec)
        return packed

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Return what the codec does."""
        size: int = self.codec.compute_encoded_size(input_byte_length, chunk_spec)
        return size
