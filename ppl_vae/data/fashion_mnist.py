"""Fashion-MNIST: 60,000 and 10,000 grey images of clothes, 28 x 28 (Xiao, Rasul & Vollgraf 2017).

The authors publish the md5 of the gzipped IDX files, to which downloads are held. A copy in a
folder of one's own may have been gzipped anew: there gzip's own checksum and the structure hold it.
"""

from __future__ import annotations

__all__ = ["SOURCE", "read"]

from pathlib import Path

from ppl_vae.data.fetching import RemoteFile
from ppl_vae.data.idx import read_split
from ppl_vae.data.images import Images, Source

SOURCE = Source(
    title="Fashion-MNIST",
    url="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    citation="Xiao, Rasul & Vollgraf 2017, Fashion-MNIST: a novel image dataset for benchmarking "
    "machine learning algorithms",
    split="60,000 / 10,000 (the authors')",
    size=(1, 28, 28),
    num_levels=256,
    checksum="md5 (the authors)",
)

_PLACE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_FILES = {name: RemoteFile(name, (_PLACE + name,), f"md5:{md5}") for name, md5 in _MD5.items()}


def read(path: str | Path | None = None) -> tuple[Images, Images]:
    """Grey images to train and to test with, with the kind of clothing as label."""
    parts = [
        read_split(
            "fashion_mnist",
            _FILES[f"{part}-images-idx3-ubyte.gz"],
            _FILES[f"{part}-labels-idx1-ubyte.gz"],
            count,
            path=path,
        )
        for part, count in (("train", 60_000), ("t10k", 10_000))
    ]
    return parts[0], parts[1]
