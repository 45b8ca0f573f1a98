from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import filled, make, take_up

from eigenscope.store import Run
from eigenscope.store.tiling import Tiling


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8"])
def test_ragged_tiles_come_back_as_they_were_written(tmp_path, dtype):
    with make(tmp_path / "run") as run:
        array, values = filled(run, dtype=dtype)
        assert array.grid == (3, 3)
        assert array.read_tile((2, 2)).shape == (1, 1)
        np.testing.assert_array_equal(array[:], values, strict=True)
        np.testing.assert_array_equal(array.read_tile((1, 2)), values[2:4, 6:])


def test_zarr_reads_the_same_array(tmp_path):
    with make(tmp_path / "run") as run:
        _, values = filled(run)
    group = zarr.open_group(tmp_path / "run/arrays.zarr", mode="r", zarr_format=3)
    gram = np.asarray(group["gram"])
    np.testing.assert_array_equal(gram, values, strict=True)


def test_tiles_that_zarr_writes_are_read(tmp_path):
    with make(tmp_path / "run") as run:
        array = run.array("gram", shape=(4, 5), dtype="float64", tile_shape=(2, 2))
        values = np.random.default_rng(0).standard_normal((4, 5))
        zarr.open_array(tmp_path / "run/arrays.zarr/gram", mode="r+")[...] = values
        np.testing.assert_array_equal(array[:], values)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_selection_is_what_numpy_selects(tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    tile_shape = tuple(data.draw(st.integers(1, 8)) for _ in shape)
    items = [
        data.draw(
            st.integers(-length, length - 1)
            | st.builds(
                slice,
                st.none() | st.integers(-9, 9),
                st.none() | st.integers(-9, 9),
            )
        )
        for length in shape[: data.draw(st.integers(0, len(shape)))]
    ]
    with make(tmp_path_factory.mktemp("runs") / "run") as run:
        array, values = filled(run, shape, tile_shape)
        selection = tuple(items)
        np.testing.assert_array_equal(array[selection], values[selection])
        out = np.full((*values[selection].shape, 2), 99.0, "float32")[..., 0]
        array.read_into(out, selection)
        np.testing.assert_array_equal(out, values[selection])


def test_reading_into_contiguous_rows_takes_no_memory_of_its_own(tmp_path):
    with make(tmp_path / "run") as run:
        array, values = filled(run, (6, 50), (2, 50))
        out = np.zeros((4, 50), "float32")
        array.read_into(out, slice(2, 6))
        np.testing.assert_array_equal(out, values[2:6])
        assert not hasattr(array._local, "tile")


def test_a_tile_of_zeros_counts_as_written(tmp_path):
    with make(tmp_path / "run") as run:
        array = run.array("gram", shape=(4,), dtype="float32", tile_shape=(2,))
        array.write((1,), np.zeros(2, "float32"))
        assert array.is_written((1,))
        assert array.missing() == [(0,)]
        np.testing.assert_array_equal(array.read_tile((1,)), [0, 0])


def test_strided_values_are_written_as_they_read(tmp_path):
    with make(tmp_path / "run") as run:
        array = run.array("gram", shape=(4, 6), dtype="float32", tile_shape=(4, 6))
        values = np.arange(48, dtype="float32").reshape(6, 8).T[::2]
        array.write((0, 0), values)
        np.testing.assert_array_equal(array[:], values)


def test_tiles_larger_than_a_block_come_back(tmp_path):
    with make(tmp_path / "run") as run:
        length = 3 * 2**18 + 5  # bytes: three blocks and a rest
        array = run.array("x", shape=(length,), dtype="float32", tile_shape=(length,))
        values = np.random.default_rng(0).standard_normal(length, "float32")
        array.write((0,), values)
        np.testing.assert_array_equal(array[:], values)


def test_writing_a_tile_again_replaces_it(tmp_path):
    with make(tmp_path / "run") as run:
        array, _ = filled(run)
        array.write((0, 0), np.full((2, 3), 5, "float32"))
        np.testing.assert_array_equal(array.read_tile((0, 0)), np.full((2, 3), 5))


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "entry":
        content[5] ^= 1
    elif kind == "checksum":
        content[-2] ^= 128
    elif kind == "short":
        del content[-1:]
    elif kind == "long":
        content += b"\0"
    elif kind == "empty":
        content.clear()
    path.write_bytes(content)


@pytest.mark.message
@pytest.mark.parametrize("kind", ["entry", "checksum", "short", "long", "empty"])
def test_a_damaged_tile_is_named_with_its_cure(tmp_path, kind):
    with make(tmp_path / "run") as run:
        array, values = filled(run)
        path = Path(array.location((1, 2)))
        damage(path, kind)
        assert array.is_written((1, 2)) == (kind in {"entry", "checksum"})
        np.testing.assert_array_equal(array[:, :6], values[:, :6])  # the rest is well
        message = rf"tile \(1, 2\) of array 'gram'.*Delete {path} and .*--resume"
        with pytest.raises(ValueError, match=message):
            array[:]


def test_a_deleted_tile_of_a_complete_run_is_computed_anew_on_resume(tmp_path):
    with make(tmp_path / "run") as run:
        array, values = filled(run)
        run.complete()
    Path(array.location((1, 2))).unlink()
    with take_up(tmp_path / "run") as run:
        assert not run.is_complete
        array, _ = filled(run)
        np.testing.assert_array_equal(array[:], values)
        run.complete()
    assert Run.open(tmp_path / "run").is_complete


@pytest.mark.message
def test_a_tile_that_is_not_written_says_how_far_the_run_is(tmp_path):
    with make(tmp_path / "run") as run:
        array = run.array("gram", shape=(4,), dtype="float32", tile_shape=(2,))
        array.write((1,), np.ones(2, "float32"))
        with pytest.raises(FileNotFoundError, match=r"\(0,\).*1 of 2 tiles.*--resume"):
            array[:]


@pytest.mark.message
def test_a_tile_of_the_wrong_shape_or_dtype_is_refused(tmp_path):
    with make(tmp_path / "run") as run:
        array = run.array("gram", shape=(3,), dtype="float32", tile_shape=(2,))
        with pytest.raises(ValueError, match=r"shape \(1,\), got float32 .*\(2,\)"):
            array.write((1,), np.ones(2, "float32"))
        with pytest.raises(ValueError, match=r"must be float32 .*got float64"):
            array.write((0,), np.ones(2))
        with pytest.raises(IndexError, match=r"grid of \(2,\) tiles.*got \(2,\)"):
            array.write((2,), np.ones(2, "float32"))
        with pytest.raises(ValueError, match=r"out must be float32 of shape \(2,\)"):
            array.read_into(np.zeros(3, "float32"), slice(2))
        with pytest.raises(ValueError, match=r"out must be float32.*got float64"):
            array.read_into(np.zeros(3))
        assert array.missing() == [(0,), (1,)]


@pytest.mark.message
@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (slice(None, None, 2), "step of 2; read the whole slice"),
        (3, r"axis 0 must be between -3 and 2, got 3"),
        (-4, r"axis 0 must be between -3 and 2, got -4"),
        ((0, 0), "at most one item for each of the 1 axes; got 2"),
    ],
)
def test_a_selection_outside_the_array_is_refused(selection, message):
    with pytest.raises(IndexError, match=message):
        Tiling(shape=(3,), tile_shape=(2,)).bounds(selection)


@pytest.mark.message
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../gram"}, r"name must be letters.*got '\.\./gram'"),
        ({"shape": (), "tile_shape": ()}, r"at least one axis.*shape \(\)"),
        ({"tile_shape": (2, 2)}, r"a tile length for each.*tiles of \(2, 2\)"),
        ({"tile_shape": (0,)}, r"at least 1; got shape \(4,\), tiles of \(0,\)"),
        ({"dtype": "torch.bfloat16"}, r"got bfloat16; store bfloat16 as float32"),
        ({"dtype": "complex64"}, r"got complex64;.*as two arrays"),
        ({"attributes": {"a": {1, 2}}}, r"attributes must be made of null"),
    ],
)
def test_what_an_array_cannot_be_is_refused(tmp_path, changes, message):
    asked: dict[str, Any] = {
        "name": "x",
        "shape": (4,),
        "dtype": "float32",
        "tile_shape": (2,),
    }
    with make(tmp_path / "run") as run, pytest.raises(ValueError, match=message):
        run.array(**{**asked, **changes})


@pytest.mark.message
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (5,)}, r"shape: \(4,\) → \(5,\)"),
        ({"dtype": "float64"}, "dtype: float32 → float64"),
        ({"tile_shape": (3,)}, r"tile_shape: \(2,\) → \(3,\); take tile and batch"),
        ({"attributes": {"data": "b"}}, "attributes: {'data': 'a'} → {'data': 'b'}"),
    ],
)
def test_an_array_is_taken_up_only_as_it_was_made(tmp_path, changes, message):
    asked: dict[str, Any] = {
        "shape": (4,),
        "dtype": "torch.float32",
        "tile_shape": (2,),
    }
    asked["attributes"] = {"data": "a"}
    with make(tmp_path / "run") as run:
        run.array("gram", **asked)
        asked["dtype"] = np.dtype("float32")
        run.array("gram", **asked)
        with pytest.raises(ValueError, match=message):
            run.array("gram", **{**asked, **changes})


@pytest.mark.message
def test_an_array_of_another_writer_is_refused(tmp_path):
    with make(tmp_path / "run") as run:
        filled(run)
        zarr.create_array(
            tmp_path / "run/arrays.zarr/other", shape=(4,), dtype="f4", chunks=(2,)
        )
        with pytest.raises(ValueError, match=r"codecs \['bytes', 'crc32c'\], got"):
            run.open_array("other")


@pytest.mark.message
def test_an_unknown_array_lists_those_that_are_there(tmp_path):
    with make(tmp_path / "run") as run:
        with pytest.raises(KeyError, match=r"\(none yet\); got 'gram'"):
            run.open_array("gram")
        filled(run)
        with pytest.raises(KeyError, match="one of gram; got 'ntk'"):
            run.open_array("ntk")
