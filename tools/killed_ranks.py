#!/usr/bin/env python3
"""Kills a random rank of an MPI run at random moments, and begins it again with the same line, until it is finished; then compares
what it has learned with what an undisturbed run learns.

    tools/killed_ranks.py --barlow target/release/barlow --ranks 2 --kills 20

The program must have been built with `--features mpi`. Exit status 0: every restart went on, and the weights are the same, bit by
bit.
"""

import argparse
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time


def command(arguments, folder):
    line = ["mpirun", "--oversubscribe", "-n", str(arguments.ranks), arguments.barlow, "train"]
    line += ["--resume", "auto", "--out", str(folder), "--device", "cpu", "--epochs", str(arguments.epochs)]
    line += ["--set", "evaluate_every=0", "--set", "checkpoint_every=1"]
    return line + ["--set", "schedule.warmup_epochs=1"]


def ranks_of(launcher):
    """The processes that the launcher has started."""
    found = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True, check=False)
    return [int(number) for number in found.stdout.split()]


def digest(folder):
    return hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()


def steps(folder):
    """The steps of the run's checkpoints."""
    return sorted(int(path.stem.split("-")[1]) for path in (folder / "checkpoints").glob("step-*"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--barlow", required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        whole, killed = scratch / "whole", scratch / "killed"
        started = time.monotonic()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        subprocess.run(command(arguments, whole), check=True, **quiet)
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.1f} s", flush=True)
        for kill in range(1, arguments.kills + 1):
            log = scratch / "log"
            with log.open("w") as output:
                run = subprocess.Popen(command(arguments, killed), stdout=output, stderr=subprocess.STDOUT, env=environment)
                # From before the first step until well into the run, and every restart goes a few epochs on.
                time.sleep(random.uniform(0.5, max(3.0, 2.0 * seconds / arguments.kills)))
                victims = ranks_of(run.pid)
                number = random.randrange(len(victims)) if victims else None
                if number is not None:
                    os.kill(victims[number], signal.SIGKILL)
                status = run.wait(timeout=120)
            said = [line for line in log.read_text().splitlines() if "on signal 9" in line]
            checkpoints = steps(killed) if killed.exists() else []
            print(f"kill {kill}: rank {number}, status {status}, last checkpoint {checkpoints[-1:]}: {said[:1]}", flush=True)
            if status == 0:
                print("the run was finished before it was killed", flush=True)
                break
        subprocess.run(command(arguments, killed), check=True, **quiet)
        same = digest(whole) == digest(killed)
        print("the same weights" if same else "OTHER WEIGHTS")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
