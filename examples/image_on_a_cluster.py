"""Image on the workers of a Dask scheduler, here a cluster of two processes on this machine.

    python examples/image_on_a_cluster.py target.ms out/target

Any Dask cluster serves in its place, for example dask-jobqueue's SLURMCluster. Its workers need a file system that they
share, and one thread for each CPU core or three for each GPU: see docs/cluster.md.
"""

import sys

from distributed import LocalCluster

import gpucube


def main(ms: str, imagename: str) -> None:
    # memory_limit=None: Dask cannot see the memory that gpucube holds, and would pause workers for good
    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=None, dashboard_address=":0") as cluster:
        result = gpucube.image_cube(
            ms,
            imagename=imagename,
            imsize=256,
            cell="10arcsec",
            niter=10_000,
            nsigma=3,
            scheduler=cluster.scheduler_address,
        )
    workers = {channel.worker for channel in result.channels}
    print(f"{len(result.channels)} channels were imaged by {len(workers)} workers")
    print("restored cube:", result.products["image"])


if __name__ == "__main__":
    main(*sys.argv[1:3])
