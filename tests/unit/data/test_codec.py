import numpy as np
import pytest

from unipart.data.codec import decode_sample, encode_sample, pack_arrays, pack_json, pack_meshes, unpack_meshes, wanted_members


def assert_equal(a, b):
    """Compares two dataclasses of arrays field by field, dtypes included."""
    if hasattr(a, "__dataclass_fields__"):
        assert type(a) is type(b)
        for name in a.__dataclass_fields__:
            assert_equal(getattr(a, name), getattr(b, name))
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def test_round_trip_is_exact(make_sample):
    sample = make_sample("a" * 20)
    assert_equal(decode_sample(sample.sample_id, encode_sample(sample)), sample)


def test_bytes_depend_on_values_only(make_sample):
    assert encode_sample(make_sample("a" * 20)) == encode_sample(make_sample("a" * 20))
    assert encode_sample(make_sample("a" * 20))["field.npz"] != encode_sample(make_sample("a" * 20, seed=1))["field.npz"]


def test_groups_and_views_select(make_sample):
    sample = make_sample("a" * 20, views=3)
    members = encode_sample(sample)
    decoded = decode_sample(sample.sample_id, members, groups=("surface", "views"), views=[2, 0])
    assert decoded.parts is None
    assert decoded.queries is None
    assert decoded.mesh is None
    assert len(decoded.views) == 2
    np.testing.assert_array_equal(decoded.views[0].rgba, sample.views[2].rgba)
    assert decoded.views[0].camera == sample.views[2].camera
    assert decoded.views[0].part_ids is None
    assert_equal(decoded.surface, sample.surface)


def test_wanted_members_are_enough_and_no_more(make_sample):
    members = encode_sample(make_sample("a" * 20, views=3))
    names = wanted_members(members, ("field", "views"), [1])
    assert sorted(names) == ["field.npz", "json", "view_01.png"]
    decode_sample("a" * 20, {name: members[name] for name in names}, ("field", "views"), [1])
    assert sorted(wanted_members(members, None, None)) == sorted(members)
    assert "view_01.parts.png" in wanted_members(members, ("views", "view_maps"), None)


def test_missing_group_is_named(make_sample):
    members = encode_sample(make_sample("a" * 20))
    del members["parts.npz"]
    with pytest.raises(ValueError, match=r"parts\.npz"):
        decode_sample("a" * 20, members, groups=("parts",))
    assert decode_sample("a" * 20, members).parts is None


def test_nan_is_no_json():
    with pytest.raises(ValueError, match="JSON"):
        pack_json({"volume": float("nan")})


def test_no_meshes_and_object_arrays():
    assert unpack_meshes("x", pack_meshes("x", [])) == ()
    with pytest.raises(ValueError, match="Object arrays"):
        pack_arrays({"x": np.array([{}])})
