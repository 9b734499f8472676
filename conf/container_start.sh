#!/bin/sh
# The start of every container of segkit's image. Numba reads compiled kernels only where it may also write, which in a container is
# /tmp, and gone with it; so those that were compiled when the image was built are put there. They take 8 MB.
set -eu
if test -d /opt/segkit/kernels && ! test -e "$NUMBA_CACHE_DIR"; then
    cp -R /opt/segkit/kernels "$NUMBA_CACHE_DIR"
fi
exec "$@"
