"""Eigenvectors on axes: as inputs, and by sample."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from plot_cases import axes, image_of

from eigenscope.plots import plot_input_vectors, plot_sample_vector


def test_one_channel_is_shown_in_diverging_colors_centered_on_zero():
    vectors = np.stack([np.arange(6.0) - 2.0, np.zeros(6)], axis=1)
    both = list(Figure().subplots(1, 2))
    shown = plot_input_vectors(
        both, vectors, sample_shape=(1, 2, 3), values=np.array([3.5, 0.25])
    )
    np.testing.assert_allclose(image_of(shown[0]), [[-2, -1, 0], [1, 2, 3]])
    assert shown[0].images[0].get_clim() == (-3.0, 3.0)
    assert [ax.get_title() for ax in shown] == ["λ₁ = 3.5", "λ₂ = 0.25"]


def test_three_channels_are_scaled_symmetrically_so_that_zero_is_gray():
    vector = np.array([[-1.0, 0.0, 0.5, 0.0, 0.0, 0.0]]).T
    (ax,) = plot_input_vectors(
        [axes()], vector, sample_shape=(3, 1, 2), values=np.ones(1)
    )
    colors = image_of(ax)
    np.testing.assert_allclose(colors[0, 0], [0.0, 0.75, 0.5])
    np.testing.assert_allclose(colors[0, 1], [0.5, 0.5, 0.5])


def test_a_flat_input_is_a_line_and_other_shapes_are_a_strip():
    vector = np.arange(16.0).reshape(-1, 1)
    (line,) = plot_input_vectors(
        [axes()], vector, sample_shape=(16,), values=np.ones(1)
    )
    np.testing.assert_allclose(np.asarray(line.lines[0].get_ydata()), vector[:, 0])
    (strip,) = plot_input_vectors(
        [axes()], vector, sample_shape=(4, 2, 2), values=np.ones(1)
    )
    assert image_of(strip).shape == (4, 4)


def test_parts_of_a_vector_stand_side_by_side_one_for_each_output():
    vector = np.arange(24.0).reshape(-1, 1)
    (ax,) = plot_input_vectors([axes()], vector, sample_shape=(2, 4), values=np.ones(1))
    shown = image_of(ax)
    np.testing.assert_allclose(shown[:, 5:9], vector[8:16, 0].reshape(2, 4))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]


def test_of_many_outputs_the_first_ten_are_shown_and_the_axis_says_so():
    vector = np.ones((48, 1))
    (ax,) = plot_input_vectors(
        [axes()], vector, sample_shape=(1, 2, 2), values=np.ones(1)
    )
    assert len(ax.get_xticks()) == 10
    assert ax.get_xlabel() == "outputs 0 to 9 of 12"


@pytest.mark.message
def test_input_vectors_of_another_length_or_number_are_refused():
    ones = np.ones(1)
    with pytest.raises(ValueError, match=r"multiple of 4 entries.*\(2, 2\).* got 6"):
        plot_input_vectors([axes()], np.ones((6, 1)), sample_shape=(2, 2), values=ones)
    with pytest.raises(ValueError, match="as many as the vectors, 2; got 1 axes"):
        plot_input_vectors([axes()], np.ones((4, 2)), sample_shape=(2, 2), values=ones)


def test_samples_are_ordered_by_class_with_boundaries_and_names():
    vector = np.array([0.5, -0.5, 0.25, 1.0])
    ax = plot_sample_vector(
        axes(), vector, targets=np.array([2, 0, 2, 0]), class_names=["a", "b", "c"]
    )
    drawn = [
        np.asarray(x.get_ydata()).tolist() for x in ax.lines if x.get_marker() == "."
    ]
    assert drawn == [[-0.5, 1.0], [0.5, 0.25]]
    assert [1.5, 1.5] in [np.asarray(x.get_xdata()).tolist() for x in ax.lines]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "c"]
    np.testing.assert_allclose(ax.get_xticks(), [0.5, 2.5])


def test_entries_of_one_sample_stay_together_in_layout_outputs():
    vector = np.arange(6.0)
    ax = plot_sample_vector(axes(), vector, targets=np.array([1, 0, 1]))
    drawn = [
        np.asarray(x.get_ydata()).tolist() for x in ax.lines if x.get_marker() == "."
    ]
    assert drawn == [[2.0, 3.0], [0.0, 1.0, 4.0, 5.0]]


def test_without_targets_the_samples_keep_the_order_of_the_data():
    vector = np.arange(4.0)
    ax = plot_sample_vector(axes(), vector)
    assert ax.get_xlabel() == "sample, in the order of the data"
    np.testing.assert_allclose(np.asarray(ax.lines[1].get_ydata()), vector)


def test_a_hundred_classes_are_counted_instead_of_named():
    ax = plot_sample_vector(axes(), np.ones(200), targets=np.arange(200) % 100)
    assert ax.get_xlabel() == "sample, ordered by its class (100 classes)"
    assert len(ax.get_xticks()) == 0


@pytest.mark.message
def test_targets_that_do_not_fit_the_vector_are_refused():
    with pytest.raises(ValueError, match=r"multiple of len\(targets\) = 3.*got 4"):
        plot_sample_vector(axes(), np.ones(4), targets=np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="every class from 0 to 2; got 2 names"):
        plot_sample_vector(
            axes(), np.ones(3), targets=np.array([0, 1, 2]), class_names=["a", "b"]
        )
