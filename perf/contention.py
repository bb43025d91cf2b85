"""How much slower training gets beside one other busy process, with threads that spin while they wait and with threads that do not.

    python perf/contention.py

`lungadv reproduce` runs every step with OMP_WAIT_POLICY=passive. Limit: at most 2.2 times the quiet time beside one busy process.
"""

import os
import subprocess
import sys
import time

LIMIT = 2.2
THREADS = 2
TRAINING = """
import itertools, time, torch
from lungadv.models.dense_unet import new_network
from lungadv.training.loop import fit
from lungadv.training.losses import classification_loss
torch.set_num_threads(%d)
torch.manual_seed(0)
batch = torch.rand(16, 1, 32, 32, 32).contiguous(memory_format=torch.channels_last_3d), torch.arange(16) %% 2
network = new_network("evidence", 16)
fit(network, classification_loss, itertools.repeat(batch), 3, learning_rate=1e-3)
started = time.perf_counter()
fit(network, classification_loss, itertools.repeat(batch), 20, learning_rate=1e-3)
print(time.perf_counter() - started)
"""


def seconds(policy: str) -> float:
    """Seconds of 20 updates of a false-positive network under an OMP_WAIT_POLICY."""
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    done = subprocess.run(
        [sys.executable, "-c", TRAINING % THREADS], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Measure both policies, quiet and beside a busy process; exits with 1 when the limit is passed."""
    ratios = {}
    for policy in ("passive", "active"):
        quiet = seconds(policy)
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.5)
            beside = seconds(policy)
        finally:
            busy.kill()
            busy.wait()
        ratios[policy] = beside / quiet
        print(f"{policy:8} quiet {quiet:6.2f} s, beside a busy process {beside:6.2f} s: {ratios[policy]:.2f} times")
    held = ratios["passive"] <= LIMIT
    print(f"passive: {ratios['passive']:.2f} times, limit {LIMIT}: {'holds' if held else 'is passed'}")
    sys.exit(not held)


if __name__ == "__main__":
    main()
