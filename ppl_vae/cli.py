"""The command line: `ppl-vae list | train | study | evaluate | sample | reconstruct | compare | …`.

Arguments and errors only; what the verbs do stands in `ppl_vae.commands`. Results go to standard
output, progress and errors to standard error. A mistake of the user's is one line and exit status
2, an interruption 130; anything else is a bug and keeps its traceback. Of several processes that
torchrun started one alone says so.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from ppl_vae import launch
from ppl_vae.errors import TrainingError, UsageError
from ppl_vae.seeds import check_seed

SHARED = ("train", "evaluate")  # by the processes of a launcher
PPLS = ("pyro", "numpyro")
WEIGHTS = ("best", "last", "ema")
DEVICES = ("one", "all")
BOUNDS = ("ais", "bdmc")
BATCH_NORM = ("running", "batch", "recomputed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    try:
        args = _parser().parse_args(argv)
        from ppl_vae import commands

        if args.verb not in SHARED:
            launch.check_alone(args.verb)
        {
            "list": commands.list_known,
            "train": commands.train,
            "study": commands.study,
            "evaluate": commands.evaluate,
            "sample": commands.sample,
            "reconstruct": commands.reconstruct,
            "inpaint": commands.inpaint,
            "compare": commands.compare,
            "convert": commands.convert,
            "prior": commands.prior,
        }[args.verb](args)
        sys.stdout.flush()
    except (UsageError, TrainingError) as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(_of_files(error))
    except KeyboardInterrupt as stop:
        if launch.tells():
            print(f"ppl-vae: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    return 0


class Parser(argparse.ArgumentParser):
    """A parser that fails in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _fail(message: str) -> int:
    if launch.tells():
        print(f"ppl-vae: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _of_files(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # what HDF5 adds to them is of no use
        return (
            f"{where}{os.strerror(error.errno)}: make room and run again, training with --resume; "
            "what was written before is whole"
        )
    return f"{where}{error.strerror or error}: check the path and its permissions"


def _parser() -> Parser:
    parser = Parser(
        prog="ppl-vae",
        description="Hierarchical variational autoencoders in Pyro and in NumPyro.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ppl-vae {_version()}")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    _verb(verbs, "list", "recipes, data sets, models and guides that are there")
    _train(verbs)
    _study(verbs)
    _evaluate(verbs)
    _draws(verbs)
    _inpaint(verbs)
    compare = _verb(verbs, "compare", "put evaluated runs side by side")
    compare.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="runs, or folders of runs"
    )
    compare.add_argument("--out", type=Path, metavar="FOLDER", help="figures and a page there")
    compare.add_argument(
        "--published", nargs="?", const="", metavar="TABLE",
        help="papers' numbers beside them, of a YAML or JSON table (the project's own)",
    )  # fmt: skip
    compare.add_argument("--markdown", action="store_true", help="tables for a page")
    _convert(verbs)
    _prior(verbs)
    return parser


def _train(verbs: Any) -> None:
    train = _verb(verbs, "train", "train a recipe into a run's folder")
    train.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="a name (see ppl-vae list) or a YAML file"
    )
    train.add_argument("--out", type=Path, metavar="RUN", help="the run's folder (runs/RECIPE)")
    train.add_argument("--ppl", choices=PPLS, help="pyro unless told otherwise")
    train.add_argument("--resume", action="store_true", help="go on with what stands in RUN")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change the recipe, such as training.epochs=50; may be repeated",
    )  # fmt: skip
    train.add_argument(
        "--sweep", action="append", default=[], metavar="KEY=V1,V2",
        help="one run for each value (each combination, if repeated), in a folder of runs",
    )  # fmt: skip


def _study(verbs: Any) -> None:
    study = _verb(verbs, "study", "train, evaluate and compare the members of a study")
    study.add_argument("study", metavar="STUDY", help="a name (see ppl-vae list) or a YAML file")
    study.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="the study's folder (runs/STUDY); what stands in it is gone on with",
    )  # fmt: skip
    study.add_argument("--ppl", choices=PPLS, default="pyro", help="pyro unless told otherwise")
    study.add_argument(
        "--seeds", metavar="N1,N2", default="", help="in the place of the study's own"
    )
    study.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change every member's recipe, or a check, such as training.epochs=50",
    )  # fmt: skip
    study.add_argument(
        "--share", type=float, default=1.0, metavar="F",
        help="of every member's epochs, and of its warm-up and decay: 0.01 is a hundredth",
    )  # fmt: skip
    study.add_argument(
        "--minutes", type=float, metavar="M",
        help="stop training after so many; the same command goes on",
    )  # fmt: skip
    study.add_argument(
        "--jobs", type=_count, default=1, metavar="N",
        help="train so many runs at once on one device: processes (Pyro); seeds of a member as one "
        "program (NumPyro)",
    )  # fmt: skip


def _evaluate(verbs: Any) -> None:
    evaluate = _verb(verbs, "evaluate", "likelihood, divergence by site and active units of a run")
    _of_run(evaluate)
    evaluate.add_argument("--samples", type=_count, metavar="K", help="importance samples an image")
    evaluate.add_argument(
        "--images",
        type=_count,
        metavar="N",
        help="the first N of the test split (the recipe's say)",
    )
    evaluate.add_argument(
        "--check", action="append", default=[], metavar="NAME",
        help="a check beside the likelihood (see ppl-vae list); may be repeated",
    )  # fmt: skip
    evaluate.add_argument(
        "--bound", action="append", default=[], choices=BOUNDS,
        help="bracket log p(x) by annealing: ais on test images, bdmc on simulated ones",
    )  # fmt: skip
    evaluate.add_argument(
        "--set", action="append", default=[], metavar="CHECK.KEY=VALUE", dest="overrides",
        help="change a check's settings, such as ais.temperatures=1000; may be repeated",
    )  # fmt: skip
    evaluate.add_argument(
        "--devices", choices=DEVICES, help="share the images among all of them (the recipe's say)"
    )
    evaluate.add_argument("--json", action="store_true", help="one JSON object as the last line")


def _draws(verbs: Any) -> None:
    sample = _verb(verbs, "sample", "draw images from a run's prior")
    _of_run(sample)
    sample.add_argument(
        "--temperature", default="1", metavar="T",
        help="scale of the prior's noise: a number, or SITE=NUMBER,… for some latents",
    )  # fmt: skip
    sample.add_argument(
        "--label", type=int, metavar="Y", help="of all images, where the run has priors for labels"
    )
    reconstruct = _verb(verbs, "reconstruct", "test images beside their reconstructions")
    _of_run(reconstruct)
    for verb, count in ((sample, 64), (reconstruct, 20)):
        verb.add_argument(
            "--count", type=_count, default=count, metavar="N", help="how many images"
        )
        verb.add_argument(
            "--out", type=Path, metavar="FILE", help="a .png picture, or .npz for the numbers"
        )


def _convert(verbs: Any) -> None:
    convert = _verb(verbs, "convert", "make a run of weights that authors published")
    convert.add_argument("kind", metavar="KIND", help="what they are of: nvae, vdvae")
    convert.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the authors' file")
    convert.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    convert.add_argument("--ppl", choices=PPLS, default="pyro", help="the run's own (pyro)")
    convert.add_argument("--data", type=Path, metavar="PATH", help="your copy of the images")
    convert.add_argument("--config", metavar="NAME", help="vdvae: its data set, or a YAML file")
    convert.add_argument("--ema", type=Path, metavar="FILE", help="vdvae: the averaged weights")


def _inpaint(verbs: Any) -> None:
    inpaint = _verb(verbs, "inpaint", "fill in what is missing of images")
    _of_run(inpaint)
    inpaint.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, or a number: that test image, from 0"
    )
    inpaint.add_argument(
        "--mask", required=True, metavar="MASK",
        help="centre, half, rectangles, strokes, or a picture, bright where the image is known",
    )  # fmt: skip
    inpaint.add_argument("--count", type=_count, default=8, metavar="N", help="of each image (8)")
    inpaint.add_argument("--temperature", type=float, default=1.0, help="scale of prior's noise")
    inpaint.add_argument("--label", type=int, metavar="Y", help="of all, where the run takes one")
    inpaint.add_argument(
        "--condition", type=Path, metavar="FILE", help="a vector of all (.npy), where it takes one"
    )
    inpaint.add_argument("--out", type=Path, metavar="FILE", help="a .png sheet, or .npz")


def _prior(verbs: Any) -> None:
    prior = _verb(verbs, "prior", "train an autoregressive prior over a run's discrete codes")
    prior.add_argument("run", type=Path, metavar="RUN", help="a run with a codebook")
    prior.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="the new run's folder"
    )
    prior.add_argument("--weights", choices=WEIGHTS, default="best", help="which (best)")
    prior.add_argument("--resume", action="store_true", help="go on with what was stopped")
    prior.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="net, layers, channels, kernel_size, labels, draws, valid, training.KEY; repeatable",
    )  # fmt: skip


def _of_run(verb: argparse.ArgumentParser) -> None:
    """What every command on a finished run takes."""
    verb.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    verb.add_argument("--ppl", choices=PPLS, help="the one that it was trained in, unless told")
    verb.add_argument("--weights", choices=WEIGHTS, default="best", help="which (best)")
    verb.add_argument(
        "--batch-norm", choices=BATCH_NORM, default="running",
        help="statistics that batch norm uses (running)",
    )  # fmt: skip
    verb.add_argument("--seed", type=_seed, default=0, help="of the draws (0)")


def _verb(verbs: Any, name: str, text: str) -> Parser:
    verb: Parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    verb.set_defaults(verb=name)
    return verb


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, came {text!r}")
    return int(text)


def _seed(text: str) -> int:
    seed = int(text) if text.isdecimal() else text
    try:
        check_seed(seed)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("seed: ")) from error
    return int(seed)


def _version() -> str:
    try:
        return metadata.version("ppl-vae")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
