"""The strategies of Table II: how each row is trained. The one registry that drives stages, tables, colours and claims.

To add a strategy, add one entry to `STRATEGIES`.
"""

from dataclasses import dataclass

from lungadv.settings import FprSettings

__all__ = [
    "BANKS", "BASELINE", "BEYOND", "FURTHER", "ORACLE", "SEGMENTATION", "STRATEGIES", "Strategy", "strategies_of", "updates_of",
]  # fmt: skip

BANKS = ("synthetic-random", "synthetic-pgd", "perturbed", "noise")  # what can stand beside the real patches
ORACLE = ("oracle-random", "oracle-hard")  # further nodules of the phantom itself, where a synthesizer would stand
BASELINE = "baseline-beta-finetune"  # the banks are made against it, and every augmented network starts from it
SEGMENTATION = "segmentation"  # the DenseUNet pre-trained on nodule segmentation


@dataclass(frozen=True)
class Strategy:
    """How a row of Table II is trained.

    The banks hold what was made against `BASELINE` before training. An `online` strategy makes patches of the same kinds
    ("perturbed", "noise") during training, against the network as it is then.
    """

    label: str  # the row's name in Table II
    colour: str  # of its curves; Okabe-Ito colours tell rows apart in print and for colour-blind readers
    start: str = BASELINE  # the strategy whose weights it starts from, or SEGMENTATION
    output: str = "evidence"  # "evidence" (Beta loss) or "logits" (cross-entropy)
    positives: tuple[str, ...] = ()  # banks beside the real positives
    negatives: tuple[str, ...] = ()  # banks beside the real negatives
    online: bool = False
    added: bool = False  # the banks stand beside a full batch of real patches, not in place of half of it
    own_normalisation: bool = False  # perturbed patches and noise have batch statistics of their own in training
    control: bool = False  # trained on as long as an augmented row, without new data
    in_paper: bool = True  # a row of the paper's Table II

    @property
    def banks(self) -> tuple[str, ...]:
        """The banks that it reads."""
        return () if self.online else (*self.positives, *self.negatives)

    @property
    def group(self) -> str:
        """Its kind of training: "controls", "augmented" or "baselines"."""
        return "controls" if self.control else "augmented" if self.positives or self.negatives else "baselines"

    @property
    def oracle(self) -> bool:
        """Whether it needs the phantom's own nodules, which other data do not have."""
        return bool(set(self.banks) & set(ORACLE))


STRATEGIES = {
    "baseline-ce": Strategy("baseline-ce", "#999999", SEGMENTATION, output="logits"),
    "baseline-beta": Strategy("baseline-beta", "#56B4E9", SEGMENTATION),
    "baseline-beta-finetune": Strategy("baseline-beta-finetune", "#000000", "baseline-ce"),
    "control-ce": Strategy("baseline-ce, trained on (control)", "#999999", "baseline-ce", output="logits", control=True, in_paper=False),
    "control-beta": Strategy("baseline-beta, trained on (control)", "#56B4E9", "baseline-beta", control=True, in_paper=False),
    "control": Strategy("baseline-beta-finetune, trained on (control)", "#E69F00", control=True, in_paper=False),
    "beta+syn-random": Strategy("beta+syn (random)", "#CC79A7", positives=("synthetic-random",)),
    "beta+syn": Strategy("beta+syn", "#0072B2", positives=("synthetic-pgd",)),
    "beta+perturb": Strategy("beta+perturb", "#D55E00", positives=("perturbed",), negatives=("noise",)),
    "beta+perturb+syn": Strategy("beta+perturb+syn", "#009E73", positives=("synthetic-pgd", "perturbed"), negatives=("noise",)),
    "beta+online": Strategy(
        "beta+online (beyond the paper)", "#8C564B", positives=("perturbed",), negatives=("noise",), online=True, in_paper=False
    ),
    "beta+perturb-added": Strategy(
        "beta+perturb, added (ours)", "#D55E00", positives=("perturbed",), negatives=("noise",), added=True, in_paper=False
    ),
    "beta+perturb-norm": Strategy(
        "beta+perturb, own normalisation (ours)",
        "#D55E00",
        positives=("perturbed",),
        negatives=("noise",),
        own_normalisation=True,
        in_paper=False,
    ),
    "beta+oracle-random": Strategy("beta+oracle (random, ours)", "#CC79A7", positives=("oracle-random",), in_paper=False),
    "beta+oracle-hard": Strategy("beta+oracle (hard, ours)", "#0072B2", positives=("oracle-hard",), in_paper=False),
}

# Rows that neither the paper nor a control has: no claim of the paper is judged on them.
OURS = tuple(name for name, strategy in STRATEGIES.items() if not (strategy.in_paper or strategy.control))
BEYOND = tuple(name for name in OURS if STRATEGIES[name].online)  # stressed as well
FURTHER = tuple(name for name in OURS if not STRATEGIES[name].online)  # on the benchmarks alone


def strategies_of(data: str) -> tuple[str, ...]:
    """The rows that a run on `data` trains: all on the phantom ("phantom"), on a manifest those without an oracle."""
    return tuple(name for name, strategy in STRATEGIES.items() if data == "phantom" or not strategy.oracle)


def updates_of(strategy: str, settings: FprSettings) -> int:
    """The most updates that a strategy makes: those of a baseline from the segmentation network, else those of fine-tuning."""
    return settings.updates if STRATEGIES[strategy].start == SEGMENTATION else settings.finetune_updates
