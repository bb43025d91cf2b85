import dataclasses

import pytest

from lungadv.settings import PARTS, Settings, as_dict, load_settings, settings_from
from lungadv.utils.errors import InputError

PROFILES = ("tiny", "quick", "full")


@pytest.fixture
def other_file(tmp_path, monkeypatch):
    """A clone's folder with a settings.ini of one's own: the real one with some lines replaced."""
    from lungadv.utils.files import repo_root

    text = (repo_root() / "settings.ini").read_text()

    def write(old, new):
        assert old in text
        (tmp_path / "Snakefile").touch()
        (tmp_path / "settings.ini").write_text(text.replace(old, new, 1))
        monkeypatch.chdir(tmp_path)

    return write


def test_a_patch_is_40_mm_wide_in_every_profile():
    patches = [load_settings(profile).patch for profile in ("tiny", "quick", "standard", "full")]
    assert [patch.size * patch.spacing for patch in patches] == [40.0] * 4


def test_a_run_on_cubes_has_patches_that_fit_beside_a_nodule():
    for profile in ("tiny", "quick", "standard", "full"):
        plain, cubes = (load_settings(profile, cubes=cubes) for cubes in (False, True))
        assert (cubes.patch.size, cubes.patch.spacing, cubes.synthesizer.edge) == (16, 1.0, 2.5)
        assert cubes.attack == plain.attack and cubes.stress == plain.stress


def test_profiles_share_the_defaults_and_override_them():
    tiny, _, full = (load_settings(profile) for profile in PROFILES)
    assert tiny.attack.eps == full.attack.eps == 0.02
    assert tiny.patch.size < full.patch.size == 64


def test_settings_cannot_be_changed_in_place():
    settings = load_settings("tiny")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.patch.size = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.patch = None


def test_every_part_survives_json():
    for profile in PROFILES:
        settings = load_settings(profile)
        made = {part: settings_from(part, {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()})
                for part, values in as_dict(settings).items()}
        assert Settings(**made) == settings
        assert set(made) == set(PARTS)


def test_a_part_takes_other_values():
    assert load_settings("tiny", fpr={"updates": 3}).fpr == dataclasses.replace(load_settings("tiny").fpr, updates=3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"attacks": {"eps": 0.1}}, "unknown settings 'attacks'"),
        ({"attack": {"epsilon": 0.1}}, r"\[attack\]: unknown setting 'epsilon': it has eps, noise_eps, steps"),
        ({"attack": {"steps": 1.5}}, "steps = 1.5 is not a whole number"),
        ({"attack": {"steps": True}}, "steps = True is not a whole number"),
        ({"attack": {"eps": "wide"}}, "eps = 'wide' is not a number"),
        ({"latent": {"curve_eps": 3}}, "curve_eps = 3 is not numbers in brackets"),
        ({"latent": {"curve_eps": ()}}, "not numbers in brackets"),
    ],
)
def test_no_silent_override(overrides, message):
    with pytest.raises(InputError, match=message):
        load_settings("tiny", **overrides)


def test_unknown_profile_names_the_choices():
    with pytest.raises(InputError, match="'huge'.*tiny, quick, standard, full"):
        load_settings("huge")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[fpr:tiny]\n", "[fpr:tiny]\nupdate = 2\n", r"\[fpr:tiny\]: 'update' is not in \[fpr\]"),
        ("[fpr:tiny]\n", "[fpr:tini]\n", r"unknown section \[fpr:tini\]"),
        ("[froc]\nbootstraps = 1000\n", "[froc]\n", "bootstraps"),
        ("bootstraps = 1000", "bootstraps = many", "bootstraps = 'many' is not a whole number"),
        ("bootstraps = 1000", "bootstraps = 1e999", "bootstraps = inf is not a whole number"),
        ("bootstraps = 1000", "bootstraps = " + "[" * 9999, "is not a whole number"),
        ("bootstraps = 1000", "bootstraps = {[]: 1}", "is not a whole number"),
        ("bootstraps = 1000", "bootstraps 1000", "settings.ini' cannot be read .*bootstraps 1000"),
        ("bootstraps = 1000", "bootstraps = %(x", "bootstraps = '%.x' is not a whole number"),
        ("[froc]\n", "[fpr]\n", "settings.ini' cannot be read .*'fpr' already exists"),
        ("[profiles]\n", "[profile]\n", "has no section .profiles."),
    ],
)
def test_a_mistake_in_the_file_is_named(other_file, old, new, message):
    other_file(old, new)
    with pytest.raises(InputError, match=message):
        load_settings("tiny" if "tiny" in new else "quick")
