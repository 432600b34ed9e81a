"""Names of the files of a run: all of them follow from `imagename` and `scratch`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gpucube.schema.parameters import Parameters
from gpucube.schema.types import PRODUCTS


@dataclass(frozen=True)
class RunPaths:
    """Where the files of a run are: ``RunPaths("out/target").product("image")`` is ``out/target.image.fits``."""

    imagename: str
    scratch: str = ""
    keeps: bool = False  # whether the visibilities are kept

    @classmethod
    def of(cls, parameters: Parameters) -> RunPaths:
        return cls(parameters.imagename, parameters.scratch or "", parameters.keep_visibilities)

    @property
    def folder(self) -> Path:
        """Absolute path of the folder of the products."""
        return Path(self.imagename).absolute().parent

    def product(self, name: str) -> str:
        return self.summary if name == "summary" else f"{self.imagename}.{name}.fits"

    @property
    def summary(self) -> str:
        return f"{self.imagename}.summary.json"

    @property
    def report(self) -> str:
        return f"{self.imagename}.report.html"

    @property
    def journal(self) -> str:
        return f"{self.imagename}.journal"

    def given_mask(self, digest: str) -> str:
        """Name the clean mask of a run that was given one as an array. Another array has another digest."""
        return f"{self.imagename}.mask-{digest}.fits"

    def earlier(self, name: str) -> str:
        """A product or the summary of the earlier run that `restart` continues, during the new run."""
        return f"{self.imagename}.earlier-{name}" + (".json" if name == "summary" else ".fits")

    @property
    def scratch_folder(self) -> str:
        """Folder of temporary files, absolute: a worker of an existing cluster may run in another folder."""
        return os.path.abspath(self.scratch or f"{self.imagename}.scratch")

    @property
    def visibilities(self) -> str:
        """Folder of a visibility store that is kept, absolute."""
        return os.path.abspath(f"{self.imagename}.visibilities")

    @property
    def store_folder(self) -> str:
        """Folder to which the run writes its visibility store."""
        return self.visibilities if self.keeps else self.scratch_folder

    @property
    def store_parameter(self) -> str:
        """Parameter that chooses the disk of this folder."""
        return "imagename" if self.keeps else "scratch"

    @property
    def working(self) -> RunPaths:
        """Cubes in the scratch folder that the user did not ask for, but the run needs."""
        return RunPaths(os.path.join(self.scratch_folder, "work"))

    def existing(self) -> list[Path]:
        """Find products and summary of an earlier run with this imagename."""
        names = [*map(self.product, PRODUCTS), self.summary]
        return [Path(name) for name in names if os.path.lexists(name)]
