"""How fast the attack is beside its floor and beside torchattacks, foolbox and ART, and whether all four agree: one run, one network."""

import contextlib
import json
import os
import random
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lungadv.attacks.pgd import frozen, pgd  # noqa: E402
from lungadv.data.scan import to_unit  # noqa: E402
from lungadv.models import dense_unet  # noqa: E402
from lungadv.models.dense_unet import FPR, fuse_batchnorm  # noqa: E402
from lungadv.training.checkpoint import load_network  # noqa: E402
from lungadv.utils import device  # noqa: E402

PEERS = ROOT / "runs" / "peers"  # torchattacks and foolbox want old packages: they live apart, beside the torch of this environment
PACKAGES = ("torchattacks==3.5.1", "foolbox==3.3.4", "adversarial-robustness-toolbox==1.20.1", "eagerpy==0.30.0", "GitPython==3.1.44")
# Else the C library hands memory back to the system between two calls, or not, by chance, and page faults decide who is faster
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}


def setup():
    """An environment with the three libraries, without what they pin; whatever else they need they find in this one."""
    venv.create(PEERS, with_pip=True)
    python = str(PEERS / "bin" / "python")
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    theirs = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    (theirs / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES], check=True)


# The same attack by four libraries: (network giving two logits, patches, labels, eps, step, steps, norm) -> patches, without a random start


def ours(network, patches, labels, eps, step, steps, norm="linf"):
    """The last iterate, as the others return it: what the loss is asked last."""
    asked = []

    def loss(batch, labels):
        asked[:] = [batch]
        return F.cross_entropy(network(batch), labels, reduction="none")

    options = {"bounds": (0.0, 1.0), "norm": norm, "random_start": False}
    pgd(loss, patches, context=(labels,), eps=eps, step_size=step, steps=steps, **options)
    return asked[0].detach()


def torchattacks_(network, patches, labels, eps, step, steps, norm="linf"):
    import torchattacks

    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    return kind(network, eps=eps, alpha=step, steps=steps, random_start=False)(patches, labels)


def foolbox_(network, patches, labels, eps, step, steps, norm="linf"):
    import foolbox

    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=patches.device)
    return kind(abs_stepsize=step, steps=steps, random_start=False).run(model, patches, labels, epsilon=eps)


def art_(network, patches, labels, eps, step, steps, norm="linf"):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(patches.shape[1:])
    model = PyTorchClassifier(network, nn.CrossEntropyLoss(), shape, 2, clip_values=(0.0, 1.0), device_type="cpu")
    options = {"norm": {"linf": np.inf, "l2": 2}[norm], "eps": eps, "eps_step": step, "max_iter": steps, "num_random_init": 0}
    attack = ProjectedGradientDescent(model, **options, batch_size=len(patches), verbose=False)
    return torch.from_numpy(attack.generate(patches.numpy(), y=labels.numpy()))


LIBRARIES = {"torchattacks": torchattacks_, "foolbox": foolbox_, "ART": art_}


def floor(network, patches, labels, eps, step, steps):
    """What any attack of `steps` steps must compute: a forward and the gradient of the input, as often."""
    for _ in range(steps):
        leaf = patches.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(network(leaf), labels, reduction="sum"), leaf)


def floor_of_all(network, patches, labels, eps, step, steps):
    """What it costs to compute the gradients of the parameters with it, as `backward` does on a network that trains."""
    for _ in range(steps):
        F.cross_entropy(network(patches.detach().requires_grad_()), labels, reduction="sum").backward()


def floor_and_score(network, patches, labels, **terms):
    """The same and one forward more, without which nobody knows how good the last iterate is."""
    floor(network, patches, labels, **terms)
    with torch.no_grad():
        network(patches)


def parity():
    """The largest difference of our last iterate to each library's, by norm, on a small network and away from its kinks."""
    numbers = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    patches, labels = 0.35 + 0.3 * torch.rand(6, 1, 8, 8, generator=numbers), torch.arange(6) % 2
    differences = {}
    for norm, eps, step in (("linf", 0.1, 0.025), ("l2", 0.3, 0.1)):
        mine = ours(network, patches, labels, eps, step, 8, norm)
        for name, attack in LIBRARIES.items():
            differences[f"{name} {norm}"] = (attack(network, patches, labels, eps, step, 8, norm) - mine).abs().max().item()
    return differences


@contextlib.contextmanager
def whole_numbers():
    """The network in float32, whatever the processor could do."""
    usual = device.fast_dtype
    dense_unet.fast_dtype = device.fast_dtype = lambda place: torch.float32
    try:
        yield
    finally:
        dense_unet.fast_dtype = device.fast_dtype = usual


def quick_network(run, count):
    """The cross-entropy network and `count` validation patches, half of them nodules, of a finished run; random ones without it."""
    if run is None:
        torch.manual_seed(0)
        return lambda: FPR("logits").eval(), torch.rand(count, 1, 32, 32, 32), torch.arange(count) % 2
    import pandas as pd

    table = pd.read_csv(run / "patches" / "validation.csv")
    hu = load_file(run / "patches" / "validation.safetensors")["hu"]
    rows = np.concatenate([table.index[table["kind"] == kind][: count // 2] for kind in ("nodule", "background")])
    patches, labels = to_unit(hu[rows].float()), torch.tensor(table["label"].to_numpy()[rows])

    def network():
        loaded = load_network(run / "fpr" / "baseline-ce")
        return loaded.to(memory_format=torch.contiguous_format).requires_grad_(True)

    return network, patches, labels


def seconds(call):
    """Seconds of this process's own computing."""
    started = time.process_time()
    call()
    return time.process_time() - started


def shuffled(calls, rounds):
    """Seconds of every call in every round, each round in another order: {name: (rounds,)}."""
    taken = {name: [] for name in calls}
    for call in calls.values():  # once for the caches
        call()
    for round_ in range(rounds):
        order = list(calls)
        random.Random(round_).shuffle(order)
        for name in order:
            taken[name].append(seconds(calls[name]))
    return {name: np.array(values) for name, values in taken.items()}


def quartiles(values):
    """Median and quartiles as text."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def equal_mathematics(network, patches, labels, terms, rounds):
    """The table of the same attack by everyone: seconds over those of the floor in the same round, and what we are held to."""
    trains = {"floor of parameters too": floor_of_all} | LIBRARIES  # the libraries as they are shipped
    everyone = {"floor": floor, "floor and score": floor_and_score, "lungadv": plain, "lungadv, folded": plain} | trains
    networks = {name: network().requires_grad_(name in trains) for name in everyone}
    networks["lungadv, folded"] = fuse_batchnorm(networks["lungadv, folded"].to(memory_format=torch.channels_last_3d))
    calls = {name: lambda n=name, a=attack: a(networks[n], patches, labels, **terms) for name, attack in everyone.items()}
    taken = shuffled(calls, rounds)
    print(f"{terms['steps']} steps, {len(patches)} patches, float32: seconds over the floor's, median [quartiles] of {rounds} rounds")
    print(f"  {'floor':<23} {quartiles(taken['floor'])} s")
    for name in list(calls)[1:]:
        print(f"  {name:<23} {quartiles(taken[name] / taken['floor'])}")
    for name in ("floor", "floor and score"):
        holds(f"seconds over those of {name}", np.median(taken["lungadv"] / taken[name]), "<=", 1.05)
    holds("seconds over torchattacks'", np.median(taken["lungadv"] / taken["torchattacks"]), "<=", 1.05)
    for name in ("foolbox", "ART"):
        holds(f"{name}'s seconds over ours", np.median(taken[name] / taken["lungadv"]), ">=", 1.4)
        print(f"    and over ours on the folded network: {np.median(taken[name] / taken['lungadv, folded']):.2f}")
    most = np.median(taken["floor of parameters too"] / taken["floor and score"])
    print(f"  the same of whoever only computes the parameters' gradients besides, over floor and score: {most:.2f}")


def plain(network, patches, labels, eps, step, steps):
    """The attack as it is called in this package: the best iterate, all samples to the end."""
    return _search(network, patches, labels, eps, step, steps).best


def _search(network, patches, labels, eps, step, steps, **options):
    def loss(batch, labels):
        return F.cross_entropy(network(batch), labels, reduction="none")

    terms = {"context": (labels,), "eps": eps, "step_size": step, "steps": steps, "bounds": (0.0, 1.0), "random_start": False}
    return pgd(loss, patches, **terms | options)


def margin_search(network, patches, labels, eps, step, steps):
    """The attack that lets go of samples as soon as their decision has flipped."""

    def loss(batch, sign):
        logits = network(batch)
        return sign * (logits[:, 1] - logits[:, 0])

    terms = {"eps": eps, "step_size": step, "steps": steps, "bounds": (0.0, 1.0), "random_start": False}
    return pgd(loss, patches, context=(1.0 - 2 * labels,), success=0.0, **terms).best


def same_success(network, patches, labels, terms, rounds):
    """The table of patches per second to the same share of flipped decisions, judged by the float32 network."""
    judge = network().requires_grad_(False)

    @torch.no_grad()
    def flipped(attacked):
        with whole_numbers():
            return (judge(attacked).argmax(1) != labels).float().mean().item()

    fast = fuse_batchnorm(network().to(memory_format=torch.channels_last_3d).requires_grad_(False))
    as_shipped, reached = network(), {}

    def keep(name, attack, net, whole):
        with whole_numbers() if whole else contextlib.nullcontext():
            reached[name] = attack(net, patches, labels, **terms)

    variants = {f"{name}, float32": (attack, as_shipped, True) for name, attack in LIBRARIES.items()}
    variants |= {f"{name}, bfloat16": (attack, as_shipped, False) for name, attack in LIBRARIES.items()}
    variants |= {"lungadv, all samples": (plain, fast, False), "lungadv, active set": (margin_search, fast, False)}
    taken = shuffled({name: lambda n=name, v=variant: keep(n, *v) for name, variant in variants.items()}, rounds)
    print(f"\n{terms['steps']} steps at most, eps {terms['eps']}; clean error {flipped(patches):.1%}")
    print(f"ours in {device.fast_dtype(patches.device)} and channels_last_3d, batch normalisation folded")
    print(f"  {'':<24} {'patches / s':>28}   flipped")
    for name, values in taken.items():
        print(f"  {name:<24} {quartiles(len(patches) / values):>28}   {flipped(reached[name]):.1%}")
    mine = taken.pop("lungadv, active set")
    best = min((name for name in taken if name.endswith("float32")), key=lambda name: np.median(taken[name]))
    holds(f"throughput over that of the best library ({best})", np.median(taken[best] / mine), ">=", 3.0)
    best = min((name for name in taken if name.endswith("bfloat16")), key=lambda name: np.median(taken[name]))
    holds(f"the same where the network itself computes fast ({best})", np.median(taken[best] / mine), ">=", 3.0)


def holds(what, value, way, limit):
    """A line that says whether a number is where it is wanted."""
    good = value <= limit if way == "<=" else value >= limit
    print(f"  {what}: {value:.2f}, wanted {way} {limit:g}: {'held' if good else 'NOT held'}")


def count_calls(network, patches, labels, terms):
    """Forwards and gradients of one attack, counted by hooks; with a random start the start itself is scored too, if need be."""
    patches, labels, counted, count = patches[:2], labels[:2], network(), {}
    counted.register_forward_hook(lambda *_: count.update(forwards=count["forwards"] + 1))
    counted.head[0].register_full_backward_hook(lambda *_: count.update(gradients=count["gradients"] + 1))
    known = {"random_start": True, "loss_start": torch.zeros(2)}
    print(f"\nlungadv, {terms['steps']} steps:")
    for name, options in (("no random start", {}), ("random start", {"random_start": True}), ("random start, loss known", known)):
        count.update(forwards=0, gradients=0)
        with frozen(counted):
            _search(counted, patches, labels, **terms, **options)
        print(f"  {name:<24} {count['forwards']} forwards, {count['gradients']} gradients")


def main(
    run: Path | None = None,
    steps: int = 10,
    rounds: int = 7,
    patches: int = 32,
    eps: float = 0.02,  # [attack] eps of settings.ini
    setup_: bool = typer.Option(False, "--setup"),
    only_parity: bool = typer.Option(False, "--parity"),
):
    """Print the tables. RUN: the folder of a finished quick run (runs/phantom-quick-0), whose network and patches are taken."""
    if setup_:
        return setup()
    if not PEERS.exists():
        sys.exit(f"no environment with the other libraries in {PEERS}: make it with `python perf/pgd.py --setup`")
    if Path(sys.prefix).resolve() != PEERS.resolve():
        python = PEERS / "bin" / "python"
        os.execve(python, [str(python), *sys.argv], os.environ | MALLOC)
    if only_parity:
        return print(json.dumps(parity()))
    torch.set_num_threads(1)
    terms = {"eps": eps, "step": 2.5 * eps / steps, "steps": steps}
    sys.stdout.reconfigure(line_buffering=True)
    network, *data = quick_network(run, patches)
    with whole_numbers():
        equal_mathematics(network, *data, terms, rounds)
        count_calls(network, *data, terms)
    same_success(network, *data, terms, rounds)
    print("\nlargest difference of the last iterate at equal arguments (<= 1e-6):")
    for name, difference in parity().items():
        print(f"  {name:<18} {difference:.1e}")


if __name__ == "__main__":
    typer.run(main)
