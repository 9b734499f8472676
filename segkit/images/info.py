"""What is known of an image before its pixels are read, which pixels are wanted, and how much may be read at once."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.errors import SelectionError, suggest

#: The order in which an image's axes are told: time, channel, plane, row, column, colour sample.
AXES = "TCZYXS"
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class ImageInfo:
    """What a file says of itself in its header."""

    uri: str  #: absolute path or fsspec URL
    name: str  #: file name, what people call it
    format: str  #: "tiff", "png", "jpeg", "bmp", "ome-zarr", "czi", "nd2" or "lif"
    axes: str  #: those of "TCZYXS" that the image has, in the order of `shape`; S = red, green, blue
    shape: tuple[int, ...]  #: length of each axis
    dtype: str  #: numpy's name of the pixel type in native byte order, such as "uint16"
    channels: tuple[str, ...]  #: one name per channel, or red, green, blue; () when there is only one
    pixel_size_um: float | None  #: edge of a pixel in micrometres; None when the file does not say, or pixels are not square
    z_step_um: float | None  #: distance of neighbouring planes in micrometres
    time_step_s: float | None  #: seconds between time points
    bytes: int  #: size of the file; for OME-Zarr the sum over its files
    content_hash: str  #: blake2b-160 of the bytes, in hex; for OME-Zarr of the sorted relative names and bytes of its files
    scenes: int = 1  #: separate images in the file; the first is the one that is read


@dataclass(frozen=True)
class Selection:
    """Which pixels of an image a run looks at.

    Examples
    --------
    >>> Selection(channel="DAPI", z="max")
    Selection(channel='DAPI', z='max', level=0)
    """

    #: number or name; None: the first channel, or all three of a colour image; "gray": the luminance of a colour image
    channel: int | str | None = None
    #: number, "max", "mean" (projections) or "volume" (all planes); None: the only plane, or the maximum projection of a stack
    z: int | str | None = None
    level: int = 0  #: pyramid level, 0 is full size


@dataclass(frozen=True)
class Limits:
    """How much a file may promise, and how much of it is decoded at once; what goes beyond is refused before memory is taken."""

    max_pixels: int = 2**36  #: that a header may declare, all planes together
    max_decoded_pixels: int = 2**30  #: of one read: a PNG, JPEG or BMP, one strip or tile, one plane or region, one volume
    cache_bytes: int = 2**27  #: of decoded strips and tiles that an open image keeps for the next region


DEFAULT_LIMITS = Limits()
DEFAULT_SELECTION = Selection()


@dataclass(frozen=True)
class Layout:
    """How the pixels of an open image lie: its axes, all six of them, and its pyramid."""

    format: str
    dtype: str
    levels: tuple[tuple[int, int], ...]  #: rows and columns of each pyramid level, full size first
    chunks: tuple[int, int]  #: rows and columns that the storage reads in one piece
    times: int = 1
    channels: int = 1
    planes: int = 1
    colour: bool = False  #: whether pixels are red, green, blue
    names: tuple[str, ...] = ()  #: of the channels, as far as known; one may be named even when there is only one
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    time_step_s: float | None = None
    scenes: int = 1

    @property
    def lengths(self) -> dict[str, int]:
        """Length of each of the six axes."""
        rows, columns = self.levels[0]
        return {"T": self.times, "C": self.channels, "Z": self.planes, "Y": rows, "X": columns, "S": 3 if self.colour else 1}

    @property
    def axes(self) -> str:
        """The axes that are longer than one, and always rows and columns."""
        return "".join(axis for axis in AXES if axis in "YX" or self.lengths[axis] > 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis in `axes`."""
        return tuple(self.lengths[axis] for axis in self.axes)

    @property
    def pixels(self) -> int:
        """How many pixels the header declares; a colour pixel is one."""
        rows, columns = self.levels[0]
        return self.times * self.channels * self.planes * rows * columns

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One distinct name per channel, numbers where the file gives none; () when there is one channel."""
        if self.channels > 1:
            return distinct_names(self.names, self.channels)
        return COLOURS if self.colour else ()


def distinct_names(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return exactly `count` names, none empty and no two alike.

    Examples
    --------
    >>> distinct_names(("DAPI", "", "DAPI"), 4)
    ('DAPI', 'channel 1', 'DAPI (2)', 'channel 3')
    """
    taken: list[str] = []
    for number in range(count):
        name = names[number].strip() if number < len(names) else ""
        name = name or f"channel {number}"
        taken.append(name if name not in taken else f"{name} ({number})")
    return tuple(taken)


def find_channel(wanted: int | str, names: tuple[str, ...], count: int) -> int:
    """Return the number of a channel that is given by number or name; case does not count.

    Raises
    ------
    SelectionError
        When there is no such channel; the message names those there are.
    """
    if isinstance(wanted, str):
        exact = [name.strip().lower() for name in names]
        if wanted.strip().lower() in exact:
            return exact.index(wanted.strip().lower())
        if not wanted.strip().lstrip("-").isdecimal():
            raise SelectionError(f'There is no channel "{wanted}". {suggest(wanted, names)}' if names else _one_unnamed(wanted, count))
    return find_number("channel", int(wanted), count)


def find_number(what: str, wanted: int, count: int) -> int:
    """Check a channel, plane, level or time point given by number; negative numbers count from the end.

    Raises
    ------
    SelectionError
        When there is none of this number.
    """
    if not -count <= wanted < count:
        there = f"it has {count}, numbered 0 to {count - 1}" if count > 1 else "it has only one, number 0"
        raise SelectionError(f"The image has no {what} {wanted}: {there}.")
    return wanted % count


def _one_unnamed(wanted: str, count: int) -> str:
    there = "one channel, without a name" if count == 1 else f"{count} channels, without names"
    return f'There is no channel "{wanted}": the image has {there}. Leave the channel out or give its number.'
