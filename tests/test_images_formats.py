"""Every image format reads right, to the last bit where it is lossless, with its axes, names and physical sizes."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from segkit.errors import (
    FormatMissingError,
    ImageReadError,
    MissingExtraError,
    SelectionError,
)
from segkit.images import Selection, open_image, probe, thumbnail
from segkit.images.scale import from_density, length_um
from tests import corpus
from tests.corpus import read

# Formats


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"tile": (32, 32)}, {"byteorder": ">"}], ids=["plain", "zlib", "tiled", "big-endian"]
)
def test_tiff_keeps_every_type(save: Any, dtype: str, options: dict[str, Any]) -> None:
    pixels = corpus.gray(dtype)
    path = save(corpus.tiff(pixels, **options))
    plane = read(path)
    assert plane.dtype == pixels.dtype
    assert plane.dtype.isnative
    np.testing.assert_array_equal(plane, pixels)
    assert probe(path).dtype == dtype


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lzma", "packbits", "jpeg2000"])
@pytest.mark.parametrize("options", [{"rowsperstrip": 7}, {"tile": (32, 48)}], ids=["strips", "tiles"])
def test_tiff_decodes_every_lossless_compression(save: Any, compression: str, options: dict[str, Any]) -> None:
    arguments = {"compressionargs": {"reversible": True, "level": 0}} if compression == "jpeg2000" else {}
    pixels = corpus.gray()
    np.testing.assert_array_equal(read(save(corpus.tiff(pixels, compression=compression, **options, **arguments))), pixels)


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_undoes_predictors(save: Any, dtype: str, predictor: bool) -> None:
    pixels = corpus.gray(dtype)
    np.testing.assert_array_equal(read(save(corpus.tiff(pixels, compression="zlib", predictor=predictor))), pixels)


def test_jpeg_in_tiff_is_read_as_tifffile_reads_it(good: dict[str, Path]) -> None:
    np.testing.assert_array_equal(read(good["jpeg tiled.tif"]), tifffile.imread(good["jpeg tiled.tif"]))


@pytest.mark.parametrize("bits", [2, 4, 12])
def test_odd_bits_fill_the_next_type(save: Any, bits: int) -> None:
    pixels = (corpus.gray("uint16") >> (16 - bits)).astype(np.uint8 if bits < 9 else np.uint16)
    packed = np.packbits((pixels[..., np.newaxis] >> np.arange(bits)[::-1]) & 1).tobytes()
    path = save(corpus.raw_tiff(corpus.simple_tags(corpus.COLUMNS, corpus.ROWS, len(packed), bits=bits), packed))
    np.testing.assert_array_equal(read(path), pixels)


@pytest.mark.parametrize("name", ["rgb.tif", "rgba.tif", "rgb planar.tif", "rgb.png", "rgba.png", "rgb.bmp"])
def test_colour_is_three_samples(good: dict[str, Path], name: str) -> None:
    np.testing.assert_array_equal(read(good[name]), corpus.colour())
    info = probe(good[name])
    assert (info.axes, info.shape, info.channels) == ("YXS", (corpus.ROWS, corpus.COLUMNS, 3), ("red", "green", "blue"))


@pytest.mark.parametrize("name", ["rgb 16 bit.tif", "rgb 16 bit.png"])
def test_16_bit_colour_is_kept(good: dict[str, Path], name: str) -> None:
    np.testing.assert_array_equal(read(good[name]), corpus.colour("uint16"))
    assert probe(good[name]).dtype == "uint16"


def test_jpeg_is_read(good: dict[str, Path]) -> None:
    np.testing.assert_array_equal(read(good["rgb.jpg"]), np.asarray(PillowImage.open(good["rgb.jpg"])))
    np.testing.assert_array_equal(read(good["gray.jpg"]), np.asarray(PillowImage.open(good["gray.jpg"])))


def test_png_keeps_gray_of_16_bits_and_bool(good: dict[str, Path]) -> None:
    np.testing.assert_array_equal(read(good["gray 16 bit.png"]), corpus.gray("uint16"))
    np.testing.assert_array_equal(read(good["black and white.png"]), corpus.gray("bool"))
    assert probe(good["black and white.png"]).dtype == "bool"


def test_palettes_become_colour_or_gray(save: Any, good: dict[str, Path]) -> None:
    np.testing.assert_array_equal(read(good["palette.png"]), np.asarray(PillowImage.open(good["palette.png"]).convert("RGB")))
    grays = PillowImage.fromarray(corpus.gray("uint8")).convert("P")
    path = save(corpus.png(np.asarray(grays)), "gray.png")
    grays.save(path)
    assert probe(path).axes == "YX"
    np.testing.assert_array_equal(read(path), corpus.gray("uint8"))
    colours = tifffile.TiffFile(good["palette.tif"])
    with colours:
        table = (colours.pages.first.colormap >> 8).astype(np.uint8)
    np.testing.assert_array_equal(read(good["palette.tif"]), np.moveaxis(table[:, corpus.gray("uint8")], 0, -1))


def test_a_tinted_look_up_table_leaves_gray_values(save: Any) -> None:
    green = np.zeros((3, 256), np.uint16)
    green[1] = np.arange(256) * 257
    path = save(corpus.tiff(corpus.gray("uint8"), photometric="palette", colormap=green))
    np.testing.assert_array_equal(read(path), corpus.gray("uint8"))


def test_alpha_beside_gray_is_dropped(save: Any) -> None:
    pixels = np.stack([corpus.gray("uint8"), np.full_like(corpus.gray("uint8"), 200)], axis=-1)
    np.testing.assert_array_equal(read(save(corpus.tiff(pixels, photometric="minisblack", extrasamples=["unassalpha"]))), pixels[..., 0])
    np.testing.assert_array_equal(read(save(imagecodecs.png_encode(pixels), "la.png")), pixels[..., 0])


def test_samples_that_are_no_colours_are_channels(save: Any) -> None:
    pixels = corpus.colour("uint16", samples=5)
    path = save(corpus.tiff(pixels, photometric="minisblack", planarconfig="contig", metadata=None))
    info = probe(path)
    assert (info.axes, info.shape) == ("CYX", (5, corpus.ROWS, corpus.COLUMNS))
    np.testing.assert_array_equal(read(path, Selection(channel=3)), pixels[..., 3])
    planar = save(corpus.tiff(np.moveaxis(pixels, -1, 0), photometric="minisblack", planarconfig="separate", metadata=None), "planar.tif")
    np.testing.assert_array_equal(read(planar, Selection(channel="channel 2")), pixels[..., 2])


def test_white_is_zero_is_turned(good: dict[str, Path]) -> None:
    np.testing.assert_array_equal(read(good["white is zero.tif"]), 255 - corpus.gray("uint8"))


def test_pages_without_metadata_are_planes(good: dict[str, Path]) -> None:
    info = probe(good["pages.tif"])
    assert (info.axes, info.shape) == ("ZYX", (4, corpus.ROWS, corpus.COLUMNS))
    np.testing.assert_array_equal(read(good["pages.tif"], Selection(z=2)), corpus.stack(4)[2])


@pytest.mark.parametrize(("lengths", "axes"), [((3,), "ZYX"), ((2, 3), "CZYX"), ((2, 3, 4), "TCZYX")])
def test_axes_without_names_are_time_channel_plane(save: Any, lengths: tuple[int, ...], axes: str) -> None:
    assert probe(save(corpus.tiff(corpus.stack(*lengths), photometric="minisblack"))).axes == axes


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["plain", "zlib"])
def test_imagej_hyperstack(save: Any, options: dict[str, Any]) -> None:
    pixels = corpus.stack(2, 3, 4)
    metadata = {"axes": "TZCYX", "unit": "micron", "spacing": 1.5, "finterval": 3.0}
    path = save(corpus.tiff(pixels, imagej=True, resolution=(4.0, 4.0), metadata=metadata, **options))
    info = probe(path)
    assert (info.axes, info.shape) == ("TCZYX", (2, 4, 3, corpus.ROWS, corpus.COLUMNS))
    assert (info.pixel_size_um, info.z_step_um, info.time_step_s) == (0.25, 1.5, 3.0)
    with open_image(path) as image:
        assert image.times == 2
        for moment, plane, channel in np.ndindex(2, 3, 4):
            np.testing.assert_array_equal(image.plane(Selection(channel, plane), moment), pixels[moment, plane, channel])


def test_imagej_names_channels_by_their_labels(save: Any) -> None:
    path = save(corpus.tiff(corpus.stack(2), imagej=True, metadata={"axes": "CYX", "Labels": ["DAPI", "actin"]}))
    assert probe(path).channels == ("DAPI", "actin")


def test_ome_tiff(good: dict[str, Path]) -> None:
    info = probe(good["channels.ome.tif"])
    assert (info.axes, info.channels, info.pixel_size_um, info.z_step_um) == ("CZYX", ("DAPI", "GFP"), 0.25, 1.0)
    np.testing.assert_array_equal(read(good["channels.ome.tif"], Selection("gfp", 1)), corpus.stack(2, 3)[1, 1])


def test_ome_tiff_of_one_named_channel_is_chosen_by_its_name(save: Any) -> None:
    path = save(corpus.ome_tiff(corpus.gray(), "YX", metadata={"Channel": {"Name": ["DAPI"]}}))
    assert probe(path).channels == ()
    np.testing.assert_array_equal(read(path, Selection(channel="DAPI")), corpus.gray())
    with pytest.raises(SelectionError, match="DAPI"):
        read(path, Selection(channel="GFP"))


@pytest.mark.parametrize(("unit", "expected"), [("nm", 0.5), ("mm", 500_000.0), ("pixel", None)])
def test_ome_units(save: Any, unit: str, expected: float | None) -> None:
    size = {"PhysicalSizeX": 500.0, "PhysicalSizeXUnit": unit, "PhysicalSizeY": 500.0, "PhysicalSizeYUnit": unit}
    assert probe(save(corpus.ome_tiff(corpus.gray(), "YX", metadata=size))).pixel_size_um == pytest.approx(expected)


def test_ome_pyramid_has_levels(tmp_path: Path) -> None:
    pixels = corpus.gray(rows=256, columns=320)
    with tifffile.TiffWriter(tmp_path / "pyramid.ome.tif", ome=True) as writer:
        writer.write(pixels, subifds=2, tile=(64, 64), metadata={"axes": "YX"})
        writer.write(pixels[::2, ::2], subfiletype=1, tile=(64, 64))
        writer.write(pixels[::4, ::4], subfiletype=1, tile=(64, 64))
    with open_image(tmp_path / "pyramid.ome.tif") as image:
        assert image.levels == ((256, 320), (128, 160), (64, 80))
        np.testing.assert_array_equal(image.plane(Selection(level=2)), pixels[::4, ::4])
        assert thumbnail(image, size=64).shape == (51, 64)
        with pytest.raises(SelectionError, match="pyramid level 3"):
            image.plane(Selection(level=3))


def test_a_file_of_several_scenes_says_so(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as writer:
        writer.write(corpus.gray(), metadata={"axes": "YX"})
        writer.write(corpus.stack(2), metadata={"axes": "CYX"})
    assert probe(tmp_path / "two.ome.tif").scenes == 2


def test_other_files_that_ome_xml_names_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "other.tif").write_bytes(corpus.tiff(corpus.gray("uint8")))
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a"><Image ID="Image:0"><Pixels ID="P:0"'
        ' DimensionOrder="XYZCT" Type="uint16" SizeX="80" SizeY="60" SizeZ="2" SizeC="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
        '<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="here.tif">urn:uuid:a</UUID></TiffData>'
        '<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="other.tif">urn:uuid:b</UUID></TiffData></Pixels></Image></OME>'
    )
    path = tmp_path / "here.tif"
    tifffile.imwrite(path, corpus.gray(), description=xml, metadata=None)
    assert (probe(path).axes, probe(path).pixel_size_um) == ("YX", 0.5)
    np.testing.assert_array_equal(read(path), corpus.gray())


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(good: dict[str, Path], version: str) -> None:
    path = good[f"multiscale {version}.ome.zarr"]
    pixels = corpus.stack(2, 2, 3)
    info = probe(path)
    assert (info.format, info.axes, info.shape) == ("ome-zarr", "TCZYX", pixels.shape)
    assert (info.pixel_size_um, info.z_step_um, info.time_step_s) == (0.5, 2.0, 5.0)
    assert info.channels == ("channel A", "channel B")
    assert info.bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with open_image(path) as image:
        assert image.chunks == (32, 32)
        np.testing.assert_array_equal(image.plane(Selection("channel B", 1), 1), pixels[1, 1, 1])
        np.testing.assert_array_equal(image.plane(Selection(z="max", level=1)), pixels[0, 0, :, ::2, ::2].max(axis=0))


def test_ome_zarr_hash_is_of_names_and_bytes(tmp_path: Path) -> None:
    path = corpus.write_ome_zarr(tmp_path / "a.zarr", corpus.gray(), "yx")
    shutil.copytree(path, tmp_path / "b.zarr")
    same = probe(tmp_path / "b.zarr").content_hash
    assert probe(path).content_hash == same
    (path / "0" / "0.0").rename(path / "0" / "9.9")
    assert probe(path).content_hash != same


def test_ome_zarr_reads_only_the_chunks_it_needs(tmp_path: Path) -> None:
    path = corpus.write_ome_zarr(tmp_path / "a.zarr", corpus.gray(), "yx")
    (path / "0" / "1.2").write_bytes(b"damaged")
    with open_image(path) as image:
        np.testing.assert_array_equal(image.region(Selection(), slice(0, 32), slice(0, 80)), corpus.gray()[:32])
        with pytest.raises(ImageReadError):
            image.plane()


# Physical size


def test_print_densities_are_no_pixel_sizes() -> None:
    for dots in (72, 96, 150, 300, 600, 1200, 2400):
        assert from_density(dots, dots, 25400.0) is None
    assert from_density(25400, 25400, 25400.0) == pytest.approx(1.0)
    assert from_density(0, 10, 1.0) is None
    assert length_um(float("nan"), "um") is None


@pytest.mark.parametrize("per_inch", [72, 96, 300, 78_153.846])
def test_resolution_tags(save: Any, per_inch: float) -> None:
    expected = pytest.approx(0.325, rel=1e-5) if per_inch > 5000 else None
    assert probe(save(corpus.tiff(corpus.gray(), resolution=(per_inch, per_inch), resolutionunit="INCH"))).pixel_size_um == expected
    assert probe(save(corpus.png(corpus.gray("uint8"), dpi=(per_inch, per_inch)), "a.png")).pixel_size_um == expected


def test_pixels_that_are_not_square_have_no_size(save: Any) -> None:
    path = save(corpus.tiff(corpus.gray(), imagej=True, resolution=(4.0, 2.0), metadata={"unit": "um"}))
    assert probe(path).pixel_size_um is None


# Optional formats


@pytest.mark.parametrize(
    ("magic", "plugin"), [(b"ZISRAWFILE", "bioio_czi"), (b"\xda\xce\xbe\x0a", "bioio_nd2"), (b"\x70\x00\x00\x00", "bioio_lif")]
)
def test_formats_of_makers_name_the_extra(save: Any, magic: bytes, plugin: str) -> None:
    path = save(magic + bytes(2000), f"image.{plugin[-3:]}")
    if importlib.util.find_spec(plugin):
        with pytest.raises(ImageReadError):
            probe(path)
        return
    with pytest.raises(FormatMissingError, match=r"segkit\[formats\]") as caught:
        probe(path)
    assert isinstance(caught.value, ImageReadError)
    assert isinstance(caught.value, MissingExtraError)


def test_czi_is_read_by_its_plugin(tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi", reason='skipped: no bioio-czi; pip install "segkit[formats]"')
    czi = pytest.importorskip("pylibCZIrw.czi", reason="skipped: no pylibCZIrw to write a CZI file with")
    pixels = corpus.stack(2, 2, 3)
    path = tmp_path / "image.czi"
    with czi.create_czi(str(path)) as document:
        for moment, channel, plane in np.ndindex(2, 2, 3):
            document.write(data=pixels[moment, channel, plane, ..., np.newaxis], plane={"T": moment, "C": channel, "Z": plane})
        document.write_metadata("image", channel_names={0: "DAPI", 1: "GFP"}, scale_x=0.325e-6, scale_y=0.325e-6, scale_z=1e-6)
    info = probe(path)
    assert (info.format, info.axes, info.shape, info.channels) == ("czi", "TCZYX", pixels.shape, ("DAPI", "GFP"))
    assert (info.pixel_size_um, info.z_step_um) == (pytest.approx(0.325), pytest.approx(1.0))
    with open_image(path) as image:
        np.testing.assert_array_equal(image.plane(Selection("GFP", 2), 1), pixels[1, 1, 2])
        np.testing.assert_array_equal(image.region(Selection(0, "max"), slice(3, 9), slice(4, 30)), pixels[0, 0, :, 3:9, 4:30].max(axis=0))


def test_lif_is_read_by_its_plugin(save: Any) -> None:
    pytest.importorskip("bioio_lif", reason='skipped: no bioio-lif; pip install "segkit[formats]"')
    pixels = corpus.stack(2, 3)
    path = save(corpus.lif(pixels), "image.lif")
    info = probe(path)
    assert (info.format, info.axes, info.shape, info.channels) == ("lif", "CZYX", pixels.shape, ("Red", "Green"))
    assert (info.pixel_size_um, info.z_step_um) == (pytest.approx(0.5), pytest.approx(2.0))
    np.testing.assert_array_equal(read(path, Selection("Green", 2)), pixels[1, 2])
    with pytest.raises(ImageReadError):
        read(save(corpus.lif(pixels)[:-5000], "cut.lif"), Selection("Green", 2))
