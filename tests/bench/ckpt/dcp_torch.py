"""torch.distributed.checkpoint on tensors of given shapes, beside `mnemo bench ckpt --compare`: save
(it syncs its files) and load, with caches cold; one process, or several with gloo, each of which has
tensors of its own.

A line for each: {"what": "save" or "load", "bytes": .., "seconds": ..}.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings

try:
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    import torch.multiprocessing as mp
except ImportError as error:
    print(json.dumps({"skipped": f"{sys.executable} has no PyTorch ({error})"}))
    sys.exit(0)


warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def drop_caches(directory, machine):
    for folder, _, names in os.walk(directory):
        for name in names:
            file = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
    if machine:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as drop:
            drop.write("1")


def share(shapes, rank, ranks):
    """The tensors of one rank: those that begin in its part of all bytes."""
    sizes = [torch.Size(shape).numel() for _, shape in shapes]
    part, before, own = -(-sum(sizes) // ranks), 0, []
    for (name, shape), size in zip(shapes, sizes):
        if before // part == rank:
            own.append((name, shape))
        before += size
    return own


def run(rank, options, shapes, meeting):
    if options.ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank,
                                world_size=options.ranks)
    barrier = dist.barrier if options.ranks > 1 else lambda: None
    no_dist = options.ranks == 1
    state = {name: torch.empty(shape).view(torch.int32).random_().view(torch.float32)
             for name, shape in share(shapes, rank, options.ranks)}
    size = 4 * sum(torch.Size(shape).numel() for _, shape in shapes)
    directory = os.path.join(options.dir, "mnemo-bench-dcp")

    def cold():
        if rank == 0:
            os.sync()
            drop_caches(directory, options.drop_caches)

    def read_once():
        if rank == 0:
            for folder, _, names in os.walk(directory):
                for name in names:
                    with open(os.path.join(folder, name), "rb") as file:
                        while file.read(1 << 23):
                            pass

    def timed(what, action, counted):
        cold()
        barrier()
        begin = time.perf_counter()
        action()
        barrier()
        if rank == 0 and counted:
            print(json.dumps({"what": what, "bytes": size,
                              "seconds": time.perf_counter() - begin}), flush=True)

    for turn in range(options.rounds + 1):  # as there: the first is not counted, files are read once
        timed("save", lambda: dcp.save(state, checkpoint_id=directory, no_dist=no_dist), turn > 0)
        cold()
        read_once()
        timed("load", lambda: dcp.load(state, checkpoint_id=directory, no_dist=no_dist), turn > 0)
        barrier()
        if rank == 0:
            shutil.rmtree(directory)
    if options.ranks > 1:
        dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--shapes", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--drop-caches", action="store_true")
    options = parser.parse_args()
    with open(options.shapes, encoding="utf-8") as file:
        shapes = json.load(file)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    try:
        if options.ranks == 1:
            run(0, options, shapes, None)
        else:
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(run, (options, shapes, os.path.join(folder, "meeting")), options.ranks)
    finally:
        shutil.rmtree(os.path.join(options.dir, "mnemo-bench-dcp"), ignore_errors=True)


if __name__ == "__main__":
    main()
