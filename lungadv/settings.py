"""What can be set: one frozen dataclass a part, read from settings.ini for a profile."""

import ast
import configparser
import dataclasses
from dataclasses import dataclass

from lungadv.utils.errors import InputError
from lungadv.utils.files import repo_root
from lungadv.utils.lengths import whole_voxels


@dataclass(frozen=True)
class PatchSettings:
    """The cubes that false-positive reduction looks at."""

    size: int  # voxels along an edge
    spacing: float  # mm


@dataclass(frozen=True)
class AttackSettings:
    """Image PGD: one radius for banks, stress tests and claims; patches of noise have a wider one."""

    eps: float  # linf radius in [0, 1] around patches of CT; 0.02 is 28 HU
    noise_eps: float  # that around patches of noise
    steps: int  # gradient steps

    def radius(self, kind: str) -> float:
        """The radius around patches of a kind: "noise", or one of CT."""
        return self.noise_eps if kind == "noise" else self.eps


@dataclass(frozen=True)
class LatentSettings:
    """Latent PGD (Eq. 9), and the curve over its radius."""

    eps: float  # L2 radius, in standard deviations of the prior
    steps: int  # gradient steps
    curve_nodules: int  # nodules of the curve
    curve_eps: tuple[float, ...]  # radii of the curve


@dataclass(frozen=True)
class CandidateSettings:
    """The three networks of candidate generation."""

    spacing: float  # mm, of the grid that the networks see
    width: int  # channels of the finest level
    crop: float  # mm along an edge of a training crop, to the nearest multiple of 4 voxels
    max_scale: float  # a training crop is made larger or smaller by this factor at most; above 1 it is turned as well
    batch_size: int  # crops of an update
    learning_rate: float  # halved to fine-tune
    sigma: float  # mm, of the Gaussian blobs
    anchors: tuple[float, ...]  # mm, edges of the RPN's anchor boxes
    merge_distance: float  # mm; a blob and a box closer than this are one candidate
    per_source: int  # best candidates of each source in a scan
    per_scan: int  # best candidates of the union in a scan
    updates: int  # of the first network
    finetune_updates: int  # of each network that starts from it
    attack_scans: int  # benchmark scans whose nodules test an attack on candidate generation
    adversarial_updates: int  # of each heatmap network, on crops under attack
    adversarial_steps: int  # gradient steps of that attack

    @property
    def crop_size(self) -> int:
        """Voxels along an edge of a training crop: a multiple of 4, since the networks halve it twice."""
        return whole_voxels(self.crop, self.spacing, least=4, step=4)


@dataclass(frozen=True)
class FprSettings:
    """The networks of false-positive reduction."""

    width: int  # channels of the finest level
    batch_size: int  # patches of an update
    learning_rate: float  # from the segmentation network
    finetune_learning_rate: float  # of every strategy that starts from a baseline
    segmentation_updates: int  # of the pre-training on nodule segmentation
    updates: int  # of a baseline, from the segmentation network, at most
    finetune_updates: int  # of every strategy that starts from a baseline, at most
    annealing_updates: int  # over which the divergence of the Beta loss gets its weight, where evidence is learnt anew
    check_every: int  # updates between two looks at the validation loss
    patience: int  # looks without a gain after which the loss has stopped falling
    must_converge: int  # 1: a network whose loss still falls at the end stops the run
    candidates: int  # training candidates of each scan, the best
    backgrounds: int  # random lung patches of each scan (section IV)
    online_steps: int  # gradient steps of PGD against the network in training (beta+online)


@dataclass(frozen=True)
class RealSettings:
    """Training on with cubes of real nodules beside the simulated scans: half of each batch of candidate generation is real."""

    candidate_updates: int  # of the first candidate network
    candidate_finetune_updates: int  # of each candidate network that starts from it
    updates: int  # of the network of false-positive reduction
    batch_size: int  # patches of an update, half of them nodules
    real_share: float  # of either half, how much comes from cubes
    learning_rate: float  # the largest of its schedule
    candidates: int  # of each cube, the best, that become negatives


@dataclass(frozen=True)
class SynthesizerSettings:
    """The VAE with its critic (Eqs. 1 to 6)."""

    edge: float  # mm over which the mask of a cut-out fades: as wide as the scanner blurs a sharp outline
    latent_size: int  # numbers in a latent code; 8 of them are its grain
    width: int  # channels of the finest level of encoder and critic
    updates: int  # of all three networks
    batch_size: int  # cut-outs of an update
    learning_rate: float  # the largest of its schedule
    critic_start: float  # share of the updates that go before the critic begins
    critic_every: int  # from then on it takes part in every update of this number
    critic_weight: float  # lambda 2 of Eq. 6; the other terms are in nats; 0 for none
    gradient_penalty: float  # weight of the gradient penalty (Eq. 5)
    requested_sizes: int  # diameters asked for, of each type


@dataclass(frozen=True)
class BankSettings:
    """How many samples the banks hold."""

    backgrounds: int  # of each training scan
    samples: int  # synthetic nodules of each kind on a background
    noise_patches: int  # adversarial noise patches
    least_positive: float  # share of the noise that the baseline must call a nodule, else the bank attacks nothing
    oracle_draws: int  # times that every training person gets other nodules of the phantom
    oracle_share: float  # of these nodules, how many stand for random ones, and how many for the hardest
    real_nodules: int  # cubes of LUNA16 nodules on which fusion is judged, too, where they are at hand


@dataclass(frozen=True)
class FrocSettings:
    """The scoring of the benchmarks."""

    bootstraps: int  # resamples of scans


@dataclass(frozen=True)
class StressSettings:
    """What the stress tests look at."""

    positives: int  # benchmark nodules under noise and attack
    negatives: int  # random benchmark lung patches
    noise_patches: int  # patches of uniform noise
    whitebox_patches: int  # of each kind, for the attack on every network itself
    curve_nodules: int  # nodules of the curves over eps and of the audit
    audit_patches: int  # nodules, and as many negatives, on which each network of the paper is audited
    curve_eps: tuple[float, ...]  # linf radii of the curves
    calibration_patches: int  # benchmark negatives that show the false-positive rate at the thresholds
    synthetic_nodules: int  # fresh synthetic nodules, each searched by latent PGD
    random_search_nodules: int  # of them also searched at random
    uniform_noise: tuple[float, ...]  # magnitudes in [0, 1]
    poisson_scales: tuple[float, ...]  # patches are scaled to [0, scale] before drawing


@dataclass(frozen=True)
class TwoMoonsSettings:
    """The toy of Fig. 7."""

    seeds: int  # repetitions
    updates: int  # of each classifier
    batch_size: int  # points of an update
    learning_rate: float  # the largest of its schedule
    width: int  # of the two hidden layers
    tail: float  # scale of the long tail, as a share of the arc
    latent_size: int  # numbers in a latent code
    vae_updates: int  # of the VAE
    samples: int  # synthetic spots of each kind
    latent_eps: float  # L2 radius of the search for codes
    noise_eps: float  # L2 radius of the search for negatives, times the root of the dimension
    search_steps: int  # gradient steps of either search
    restarts: int  # of the search for codes


@dataclass(frozen=True)
class Settings:
    """All settings of one profile."""

    patch: PatchSettings
    attack: AttackSettings
    latent: LatentSettings
    candidates: CandidateSettings
    fpr: FprSettings
    real: RealSettings
    synthesizer: SynthesizerSettings
    banks: BankSettings
    froc: FrocSettings
    stress: StressSettings
    two_moons: TwoMoonsSettings


LARGEST = 1e15  # of a setting; "1e999" would be infinite
PARTS = {field.name: field.type for field in dataclasses.fields(Settings)}


CUBES = "cubes"  # [part:cubes] and [part:profile:cubes] hold what a run on nodule cubes has otherwise


def load_settings(profile: str, cubes: bool = False, **overrides: dict) -> Settings:
    """The settings of a profile from settings.ini, with `cubes` those of a run on nodule cubes.

    `overrides` gives a part other values, as in `fpr={"updates": 5}`.
    Raises InputError for an unknown profile, part or key, a key that is missing, and a value of another type.
    """
    parser = _parse(repo_root() / "settings.ini")
    profiles = list(parser["profiles"])
    if profile not in profiles:
        raise InputError(f"unknown profile '{profile}': choose one of {', '.join(profiles)}")
    terms = [*profiles, CUBES, *(f"{name}:{CUBES}" for name in profiles)]
    known = {"profiles", *PARTS, *(f"{part}:{name}" for part in PARTS for name in terms)}
    if strange := sorted(set(parser.sections()) - known):
        choices = f"the parts are {', '.join(PARTS)}, the profiles {', '.join(profiles)}"
        raise InputError(f"settings.ini: unknown section [{strange[0]}]: {choices}")
    if strange := sorted(set(overrides) - set(PARTS)):
        raise InputError(f"unknown settings '{strange[0]}': the parts are {', '.join(PARTS)}")
    chosen = [profile, CUBES, f"{profile}:{CUBES}"] if cubes else [profile]
    return Settings(**{part: _read_part(parser, part, chosen, overrides.get(part, {})) for part in PARTS})


def _parse(path):
    """The sections of settings.ini. Raises InputError for a file that is none."""
    parser = configparser.ConfigParser(inline_comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read ({' '.join(str(error).split())[:300]}): correct it, or take it from the clone") from None
    if "profiles" not in parser:
        raise InputError(f"'{path}' has no section [profiles]: take it from the clone")
    return parser


def _read_part(parser, part, terms, overrides):
    """The dataclass of one part; the sections of later terms have the last word."""
    values = dict(parser[part]) if part in parser else {}
    for own in (f"{part}:{term}" for term in terms if f"{part}:{term}" in parser):
        if strange := sorted(set(parser[own]) - set(values)):
            raise InputError(f"settings.ini [{own}]: '{strange[0]}' is not in [{part}]: correct its name, or add it there")
        values |= dict(parser[own])
    return settings_from(part, {key: _literal(text) for key, text in values.items()} | overrides)


def settings_from(part: str, values: dict) -> object:
    """The dataclass of a part from {key: value}. Raises InputError for a key too many or missing, and a value of another type."""
    fields = {field.name: field.type for field in dataclasses.fields(PARTS[part])}
    if strange := sorted(set(values) - set(fields)):
        raise InputError(f"settings [{part}]: unknown setting '{strange[0]}': it has {', '.join(fields)}")
    if missing := sorted(set(fields) - set(values)):
        raise InputError(f"settings [{part}] lacks '{missing[0]}': add it to settings.ini")
    return PARTS[part](**{name: _typed(part, name, kind, values[name]) for name, kind in fields.items()})


def _literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # a text, or brackets without end
        return text


def _typed(part, name, kind, value):
    """The value as a field of that type: a whole number is a number, too; a list (of JSON) is a tuple."""
    many = kind not in (int, float)
    numbers = tuple(value) if many and isinstance(value, list | tuple) else (value,) if not many else ()
    types = (int,) if kind is int else (int, float)
    if not numbers or not all(isinstance(number, types) and not isinstance(number, bool) and abs(number) <= LARGEST for number in numbers):
        wanted = "numbers in brackets" if many else "a whole number" if kind is int else "a number"
        raise InputError(f"settings [{part}]: {name} = {value!r} is not {wanted}")
    return numbers if many else value


def as_dict(settings: Settings) -> dict:
    """The settings as {part: {key: value}}, as JSON holds them."""
    return dataclasses.asdict(settings)
