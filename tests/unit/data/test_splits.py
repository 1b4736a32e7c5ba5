from unipart.data.splits import split_of


def test_fractions_hold_and_growing_one_split_moves_only_what_it_must():
    ids = [f"{number:020x}" for number in range(4000)]
    splits = [split_of(asset_id, 0.1, 0.2) for asset_id in ids]
    assert abs(splits.count("val") / len(ids) - 0.1) < 0.02
    assert abs(splits.count("test") / len(ids) - 0.2) < 0.02
    larger = [split_of(asset_id, 0.1, 0.3) for asset_id in ids]
    assert all(new == old or (old, new) == ("train", "test") for old, new in zip(splits, larger, strict=True))


def test_no_fractions_mean_train_only():
    assert {split_of(str(number), 0.0, 0.0) for number in range(100)} == {"train"}
