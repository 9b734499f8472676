"""Objects of any size, looked at in pixels of a size at which they are all about as large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.kernels.resampling import enlarge, shrink, shrink_mask
from segkit.segmenters.recipe import BoolArray


@dataclass(frozen=True)
class Lens:
    """Brings planes of a region to the size of pixels that suits the nuclei, and back."""

    shape: tuple[int, int]  #: of the region
    row: int  #: where it starts in the image
    column: int
    step: int  #: edge in pixels of the squares that are looked at
    finer: int  #: into how many each pixel's edge is divided instead

    def focus(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a plane of the region to that size."""
        if self.finer > 1:
            return enlarge(plane, self.finer, 0, 0, (self.finer * self.shape[0], self.finer * self.shape[1]))
        return shrink(plane, self.step, self.row, self.column) if self.step > 1 else plane

    def focus_mask(self, mask: BoolArray) -> BoolArray:
        """Bring a mask of the region to that size: True where any of it is."""
        if self.finer > 1:
            return mask.repeat(self.finer, axis=0).repeat(self.finer, axis=1)
        return shrink_mask(mask, self.step, self.row, self.column) if self.step > 1 else mask

    def restore(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a plane of that size back to the region."""
        if self.finer > 1:
            return shrink(plane, self.finer, 0, 0)
        return enlarge(plane, self.step, self.row, self.column, self.shape) if self.step > 1 else plane

    def restore_mask(self, mask: BoolArray) -> BoolArray:
        """Bring a mask of that size back to the region; each square stays one."""
        if self.step == 1:
            return mask[:: self.finer, :: self.finer]
        upper, left = self.row % self.step, self.column % self.step
        squares = mask.repeat(self.step, axis=0).repeat(self.step, axis=1)
        return squares[upper : upper + self.shape[0], left : left + self.shape[1]]
