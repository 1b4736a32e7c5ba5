import numpy as np
import pytest

from unipart.errors import Reject
from unipart.geometry.mesh import HALF_EXTENT, Similarity

CORNERS = np.array([[-1.0, -1, -1], [1, 1, 1], [0, 0.5, 0]])


class TestUnitBox:
    @pytest.mark.parametrize("scale", [1e-307, 1e-160, 1.0, 1e160, 8e307])
    def test_maps_there_and_back_at_any_scale(self, scale):
        box = Similarity.to_unit_box(CORNERS * scale)
        points = box.apply(CORNERS * scale)
        np.testing.assert_allclose(np.abs(points).max(), HALF_EXTENT)
        np.testing.assert_allclose(box.invert().apply(points), CORNERS * scale)

    @pytest.mark.parametrize(
        "points", [CORNERS * 9.1e307, CORNERS * 0.3e308 + 1.4e308, CORNERS * 1e-309, CORNERS * 5e-324, CORNERS * np.nan]
    )
    def test_beyond_the_range_of_numbers(self, points):
        with pytest.raises(Reject) as error:
            Similarity.to_unit_box(points)
        assert error.value.reason == "coordinate_range"

    @pytest.mark.parametrize("points", [np.zeros((0, 3)), np.ones((4, 3))])
    def test_points_without_an_extent(self, points):
        with pytest.raises(ValueError, match=r"at least one point|no extent"):
            Similarity.to_unit_box(points)
