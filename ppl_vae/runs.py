"""A run's folder: the recipe as run, versions, checkpoints, history, figures.

    RUN/recipe.yaml                  as run
    RUN/run.json                     PPL, versions, seed, shape of the images, device, command
    RUN/history.nc                   see `ppl_vae.histories`
    RUN/checkpoints/last             one line: the folder of the last whole checkpoint
    RUN/checkpoints/epoch-000060/    weights, optimiser, averaged and best weights, state.json
    RUN/checkpoints/epoch-000060.step-000500/    the same, within an epoch
    RUN/samples/                     prior samples as training went on
    RUN/figures/  RUN/tensorboard/

A checkpoint is written whole under a temporary name, renamed, and only then does `last` name it;
so a run killed at any moment still has its last whole checkpoint. Weights are safetensors in
torch's layout, whichever PPL trained them. Nothing is pickled.
"""

from __future__ import annotations

__all__ = ["THEN", "UNKNOWN", "AtWorkError", "Checkpoint", "Run", "load", "versions"]

import importlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ppl_vae.errors import UsageError, nearest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Arrays = dict[str, np.ndarray]
PPLS = ("pyro", "numpyro")
WEIGHTS = ("best", "last", "ema")
UNKNOWN = "not kept"  # the device of runs of before it was
THEN = ", then "  # between devices of a run that was gone on with elsewhere


class AtWorkError(UsageError):
    """Another process is training a run."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint.

    Attributes:
        files: {"weights" | "optimizer" | "ema" | "best" | "steps": {name: array}}.
        info: epoch, step, best epoch and what else it takes to go on.
        history: of all epochs so far, or None before the first.
    """

    files: dict[str, Arrays]
    info: dict[str, Any]
    history: xr.Dataset | None = None


class Run:
    """A run's folder on disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        recipe: Mapping[str, Any],
        ppl: str,
        command: str = "",
        **facts: Any,
    ) -> Self:
        """A new run; UsageError where `path` holds one already."""
        run = cls(path)
        if ppl not in PPLS:
            raise UsageError(f"ppl: unknown {ppl!r}: {nearest(ppl, PPLS)}")
        cls.check_free(run.path)
        run.path.mkdir(parents=True, exist_ok=True)
        recipe = dict(recipe)
        seed = recipe.get("training", {}).get("seed")
        about = {"ppl": ppl, "seed": seed, "command": command, "versions": versions(), **facts}
        run.write_recipe(recipe)
        run._write_about(about)
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """UsageError where `path` holds a run."""
        if (path / "run.json").exists():
            raise UsageError(
                f"{path}: holds a run already: add --resume to go on with it, "
                "or name another folder"
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """The run in `path`; UsageError where there is none."""
        run = cls(path)
        if not (run.path / "run.json").is_file():
            raise UsageError(f"{run.path}: no run here (run.json is missing): train one into it")
        return run

    @property
    def about(self) -> dict[str, Any]:
        """What run.json says."""
        return read_tree(self.path / "run.json")

    @property
    def ppl(self) -> str:
        """The PPL that trained it."""
        return self.about["ppl"]

    @property
    def device(self) -> str:
        """What trained it: "cpu", a GPU's own name, or one `THEN` another; `UNKNOWN` of old."""
        return self.about.get("device", UNKNOWN)

    def trained_on(self, device: str) -> None:
        """Keep the device."""
        if device != self.device:
            self._write_about({**self.about, "device": device})

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as run."""
        return read_tree(self.path / "recipe.yaml")

    @property
    def figures(self) -> Path:
        """Folder of the figures, made if need be."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def history(self) -> xr.Dataset:
        """History of all epochs (see `ppl_vae.histories`), read into memory."""
        path = self.path / "history.nc"
        if not path.is_file():
            raise UsageError(f"{self.path}: no history yet: train for at least one epoch")
        return read_history(path)

    def _write_about(self, about: Mapping[str, Any]) -> None:
        write_atomically(self.path / "run.json", json.dumps(about, indent=2).encode())

    def write_recipe(self, recipe: Mapping[str, Any]) -> None:
        """Write `recipe` to the run's recipe.yaml."""
        text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "recipe.yaml", text.encode())

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Nobody else trains this run meanwhile; AtWorkError where somebody does.

        The lock is the system's, on the folder: it ends with the process, however that ends. Where
        the system or the folder's file system has none, nothing is looked after.
        """
        if fcntl is None:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise AtWorkError(
                f"{self.path}: another process is training this run: wait for its end, or train "
                "into another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(folder)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint whole, point `last` at it, drop the one before."""
        root = self.path / "checkpoints"
        root.mkdir(exist_ok=True)
        folder = root / f"epoch-{checkpoint.info['epoch']:06d}"
        if checkpoint.info.get("step"):
            folder = folder.with_name(f"{folder.name}.step-{checkpoint.info['step']:06d}")
        partial = root / f".{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            for name, arrays in checkpoint.files.items():
                whole = {key: np.asarray(value, order="C") for key, value in arrays.items()}
                _write(partial / f"{name}.safetensors", save(whole))
            _write(partial / "state.json", json.dumps(checkpoint.info).encode())
            if checkpoint.history is not None:
                content = checkpoint.history.to_netcdf(engine="h5netcdf")
                _write(partial / "history.nc", bytes(content))
            if folder.exists():  # left by a run killed before `last` named it
                shutil.rmtree(folder)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        write_atomically(root / "last", folder.name.encode())
        self._show_history(folder)
        for old in root.iterdir():
            if old.is_dir() and old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def _show_history(self, folder: Path) -> None:
        """A checkpoint's history as the run's."""
        if (folder / "history.nc").exists():
            write_atomically(self.path / "history.nc", (folder / "history.nc").read_bytes())

    @property
    def last(self) -> Path | None:
        """Folder of the last whole checkpoint, or None."""
        pointer, missed = self.path / "checkpoints" / "last", ""
        while pointer.is_file():
            folder = pointer.parent / pointer.read_text().strip()
            if folder.is_dir():
                return folder
            if folder.name == missed:
                raise UsageError(
                    f"{pointer}: the checkpoint it names is gone: put {missed} back, or train anew"
                )
            missed = folder.name  # a run at work may have written the next since: look once more
        return None

    @property
    def epochs(self) -> int:
        """Whole epochs that the last checkpoint holds; 0 without one."""
        folder = self.last
        if folder is None:
            return 0
        try:
            return int(read_tree(folder / "state.json")["epoch"])
        except UsageError:
            if self.last == folder:
                raise
            return self.epochs  # a run at work has put the next in its place

    def restore(self, shown: bool = True) -> Checkpoint | None:
        """The last whole checkpoint with everything in it, or None; its history is the run's.

        `shown=False` only reads, for processes that do not write.
        """
        folder = self.last
        if folder is None:
            return None
        try:
            if shown:  # a run may have been killed before it had done that
                self._show_history(folder)
            files = {path.stem: read_arrays(path) for path in sorted(folder.glob("*.safetensors"))}
            info = read_tree(folder / "state.json")
            history = folder / "history.nc"
            return Checkpoint(files, info, read_history(history) if history.exists() else None)
        except (UsageError, FileNotFoundError):
            if self.last == folder:
                raise
            return self.restore(shown)  # a run at work has put the next in its place

    def weights(self, which: str = "best") -> tuple[Arrays, str]:
        """(weights in torch's layout, which they are): "best" falls back to "last"."""
        if which not in WEIGHTS:
            raise UsageError(f"weights: unknown {which!r}: {nearest(which, WEIGHTS)}")
        folder = self.last
        if folder is None:
            raise UsageError(f"{self.path}: no checkpoint yet: go on with `train --resume`")
        path, found = folder / f"{'weights' if which == 'last' else which}.safetensors", which
        if not path.exists() and which == "best":  # trained without a validation set
            path, found = folder / "weights.safetensors", "last"
        try:
            if not path.exists():
                raise UsageError(
                    f"weights: this run has no {which!r} weights: take 'last', or 'best'"
                )
            return read_arrays(path), found
        except UsageError:
            if self.last == folder:
                raise
            return self.weights(which)  # a run at work has put the next in its place


def load(
    run: str | os.PathLike[str] | Run, ppl: str | None = None, weights: str = "best"
) -> tuple[Any, Any]:
    """(model, guide) of a finished run, in evaluation mode.

    Args:
        run: its folder.
        ppl: "pyro" or "numpyro"; None takes the one that trained it. Weights carry across.
        weights: "best" (highest validation ELBO; the last where there was no validation),
            "last" or "ema".

    Raises:
        UsageError: no run there, no checkpoint, weights that do not fit.
    """
    from ppl_vae.recipes import Recipe

    run = run if isinstance(run, Run) else Run.open(run)
    ppl = ppl or run.ppl
    if ppl not in PPLS:
        raise UsageError(f"ppl: unknown {ppl!r}: {nearest(ppl, PPLS)}")
    arrays, _ = run.weights(weights)
    room = importlib.import_module(f"ppl_vae.{ppl}")
    model, guide = room.build(Recipe.from_dict(run.recipe), run.about["x_shape"])
    room.load_state(model, guide, arrays)
    return model, guide


def versions() -> dict[str, str]:
    """Versions of what a run's numbers rest on."""
    packages = ("torch", "pyro-ppl", "jax", "numpyro", "flax", "optax", "numpy", "arviz-stats")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_arrays(path: Path) -> Arrays:
    """Arrays of a safetensors file; UsageError where it is cut short or not one."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{path}: not a whole safetensors file ({error}): train again, or take another run"
        ) from error


def read_history(path: Path) -> xr.Dataset:
    """A history, read into memory; UsageError where it is cut short or not one."""
    try:
        return xr.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"{path}: not a whole netCDF file: put it back from a copy, or train again"
        ) from error


def read_tree(path: Path) -> dict[str, Any]:
    """What a JSON or YAML file holds; UsageError where it is cut short."""
    parse = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        tree = None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: not whole: put it back from a copy, or train again")
    return tree


def write_atomically(path: Path, content: bytes) -> None:
    """`path` holds either what it held, or all of `content`, whenever the process is killed."""
    partial = path.with_name(f".{path.name}.partial")
    _write(partial, content)
    os.replace(partial, path)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
