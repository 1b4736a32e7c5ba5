"""Reading shards through the index against the `webdataset` library: ``python -m benchmarks.streaming DATASET``.

Both decode the same samples with the same decoder, turn by turn in this process; CPU seconds. The index gives a seeded permutation
of the whole dataset and resumes at any sample; the stream gives the shards' order. ``--groups`` says what a training needs: the
index reads only that, a stream reads everything that lies between.
"""

import argparse
import time
from collections.abc import Iterator

from unipart.data.loader import shuffled
from unipart.data.schema import Sample
from unipart.data.shards import ShardIndex
from unipart.data.stream import stream_samples


def through_index(dataset: str, groups: tuple[str, ...], seed: int) -> Iterator[Sample]:
    """Yields the training samples in a permutation of all."""
    index = ShardIndex.open(dataset, "train")
    for number in shuffled(len(index), seed, 0):
        yield index.read(int(number), groups)


def rate(samples: Iterator[Sample], count: int) -> float:
    """Returns samples a CPU second."""
    started = time.process_time()
    seen = sum(1 for _, _ in zip(range(count), samples, strict=False))
    return seen / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder with a manifest")
    parser.add_argument("--groups", nargs="+", default=["surface", "field", "parts"], help="what is decoded")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    groups = tuple(options.groups)
    for _ in range(options.repeats):
        index = rate(through_index(options.dataset, groups, 0), options.samples)
        stream = rate(stream_samples(options.dataset, "train", groups), options.samples)
        print(f"index {index:7.1f} samples a CPU second, webdataset {stream:7.1f}: {index / stream:.2f} x")


if __name__ == "__main__":
    main()
