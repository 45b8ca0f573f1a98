import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spectrum_cases import eigenvalues, spectrum_of

from eigenscope.spectra import Spectrum

provenances = st.dictionaries(
    st.text(max_size=8),
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.integers(), max_size=3),
    max_size=4,
)


@given(values=eigenvalues, zeros=st.integers(0, 9), provenance=provenances)
@settings(max_examples=25, deadline=None)
def test_a_spectrum_comes_back_bit_for_bit(tmp_path_factory, values, zeros, provenance):
    path = tmp_path_factory.mktemp("spectra") / "one"
    spectrum = Spectrum.from_eigenvalues(
        values,
        dimension=len(values) + zeros,
        noise_floor=1e-300,
        provenance=provenance,
    )
    spectrum.save(path)
    loaded = Spectrum.load(path)
    assert loaded == spectrum
    assert loaded.values.tobytes() == spectrum.values.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["one"]


def test_equal_spectra_are_equal_files_but_for_the_time_they_took(tmp_path):
    for kind, seconds in (("whole", 1.5), ("resumed", 0.25)):
        made = {"method": "slq", "seconds": seconds}
        found = Spectrum.from_eigenvalues([1.0, 2.0], provenance=made)
        found.save(tmp_path / f"{kind}.npz", wall_time=False)
        assert Spectrum.load(tmp_path / f"{kind}.npz").provenance == {"method": "slq"}
        found.save(tmp_path / "own.npz")
        assert Spectrum.load(tmp_path / "own.npz").provenance == made
    whole, resumed = (tmp_path / f"{kind}.npz" for kind in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_nothing_in_the_file_is_pickled(tmp_path):
    path = tmp_path / "spectrum.npz"
    spectrum_of(1.0, 2.0).save(path)
    with np.load(path, allow_pickle=False) as archive:
        kinds = {archive[name].dtype.kind for name in archive.files}
    assert kinds == {"f", "u"}


def test_saving_replaces_and_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "spectrum.npz"
    spectrum_of(1.0).save(path)
    spectrum_of(2.0).save(str(path))
    assert Spectrum.load(str(path)) == spectrum_of(2.0)

    def fail(*_: object):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        spectrum_of(3.0).save(path)
    monkeypatch.undo()
    assert Spectrum.load(path) == spectrum_of(2.0)
    assert list(tmp_path.iterdir()) == [path]


@given(cut=st.integers(0, 700))
@settings(max_examples=30, deadline=None)
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("spectra") / "spectrum.npz"
    spectrum_of(1.0, 2.0, 5.0).save(path)
    whole = path.read_bytes()
    assert len(whole) > 700
    path.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match="spectrum"):
        Spectrum.load(path)


def test_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "spectrum.npz"
    spectrum_of(1.0, 2.0, 5.0).save(path)
    content = bytearray(path.read_bytes())
    place = content.find(np.float64(5.0).tobytes())
    content[place + 3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        Spectrum.load(path)


def rewrite_header(path: Path, **changes: object) -> None:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    head = json.loads(arrays.pop("_header").tobytes()) | changes
    encoded = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    np.savez(path, allow_pickle=False, _header=encoded, **arrays)


@pytest.mark.message
def test_files_that_are_not_ours_say_what_they_are(tmp_path):
    path = tmp_path / "spectrum.npz"
    with pytest.raises(FileNotFoundError, match=r"no saved spectrum at .*no suffix"):
        Spectrum.load(path)
    path.write_text("epoch,loss")
    with pytest.raises(ValueError, match="not a saved spectrum, or it is damaged"):
        Spectrum.load(path)
    np.savez(path, values=np.ones(2))
    with pytest.raises(ValueError, match=r"not a saved spectrum.*KeyError"):
        Spectrum.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights", b"1")
    with pytest.raises(ValueError, match="not a saved spectrum"):
        Spectrum.load(path)
    np.savez(path, _header=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Spectrum.load(path)


@pytest.mark.message
def test_a_newer_format_and_another_kind_say_so(tmp_path):
    path = tmp_path / "spectrum.npz"
    spectrum_of(1.0).save(path)
    rewrite_header(path, version=3)
    with pytest.raises(
        ValueError, match=r"version 3; this Eigenscope reads up to 2\. Up"
    ):
        Spectrum.load(path)
    rewrite_header(path, version=1, kind="tail fit")
    with pytest.raises(ValueError, match="saved spectrum; it holds 'eigenscope' 'tail"):
        Spectrum.load(path)
