"""The skeleton of the chest: ribs with their cartilage, breastbone, shoulder girdle and spine.

Ribs are oblique arcs just outside the inner chest wall: they start beside the spine and fall towards the front, where cartilage
takes over. Each is three parallel tubes, because its section is taller than deep: cortical bone outside, marrow inside.
"""

import numpy as np

from lungadv.phantom.drawing import capsule_coverage, paint
from lungadv.phantom.grid import Grid
from lungadv.phantom.person import Person, apex_shift

__all__ = ["draw_ribs", "paint_bones"]

VERTEBRA = 24.0  # mm from one to the next


def draw_ribs(rng: np.random.Generator, half_axes: tuple[float, float], height: float, middle: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre lines of the ribs: segments of bone (N, 2, 3) and of cartilage (M, 2, 3), z, y, x in mm of the body's frame."""
    bone, cartilage = [], []
    angle = np.linspace(-1.95, 1.25, 30)  # from beside the spine (back) round the side to the front
    for k in range(12):
        top = 1.0 - 0.085 * k + rng.normal(0, 0.005)
        fall = 0.14 + 0.035 * min(k, 7)  # from the spine to the breastbone, share of the height
        t = top - fall * (1 - np.cos((angle[0] - angle) / 1.9)) / 1.1 - 0.012 * np.sin(3 * angle)
        y, x = _outside_wall(half_axes, middle, t, angle, 5.0)
        front = angle[1:] > 0.95 - 0.04 * k
        for side in (-1, 1):
            points = np.stack([t * height, y, side * np.maximum(x, 18)], 1)
            pairs = _segments(points)
            bone.append(pairs[~front])
            cartilage.append(pairs[front])
            if t[-1] > 0.3:  # the upper ribs reach the breastbone
                joint = np.array([max(t[-1], 0.42) * height + 8, middle - half_axes[1] - 5, side * 15.0])
                cartilage.append(np.stack([points[-1], joint])[None])
    return np.concatenate(bone), np.concatenate(cartilage)


def paint_bones(hu: np.ndarray, grid: Grid, person: Person, rng: np.random.Generator) -> None:
    """Paint ribs, breastbone, shoulder girdle and spine into `hu` (z, y, x)."""

    def draw(lines, radius, value) -> None:
        lines = person.pose.to_scanner(lines)
        paint(hu, capsule_coverage(grid, lines[:, 0], lines[:, 1], *np.broadcast_to(radius, (2, len(lines)))), value)

    bone, cartilage = person.ribs
    up = np.array([2.0, 0, 0])
    girdle, radii = _shoulder_girdle(person)
    draw(cartilage, 4.6, 110)
    lines = np.concatenate([bone + up, bone, bone - up, _breastbone(person)])
    draw(lines, 4.0, 620)
    draw(lines, 2.7, 170)
    draw(girdle, radii, 480)
    thick = radii > 2.5
    draw(girdle[thick], radii[thick] - 1.4, 180)
    _paint_spine(hu, grid, person, rng)


def _narrowing(t):
    """Size of the chest's section at relative height t: 1 at the base, 0 above the apex."""
    tau = np.clip((t - 0.22) / 0.76, 0, 1)
    return (1 - tau**2.7) ** (1 / 2.7)


def _outside_wall(half_axes, middle, t, angle, out):
    """Points y, x >= 0 (body's frame, mm) `out` mm outside the chest wall at relative height t; angle 0 at the side, -pi/2 behind."""
    a, b = half_axes
    size = _narrowing(np.clip(t, 0, 0.985))
    shift = a * apex_shift(t)
    c, s, power = np.cos(angle), -np.sin(angle), 2 / 2.2
    lateral = np.where(c > 0, (a - shift) * size + out, (shift + 0.5 * a) * size)
    x = shift + lateral * np.sign(c) * np.abs(c) ** power
    return middle + (b * size + out) * np.sign(s) * np.abs(s) ** power, x


def _segments(points):
    """Points (..., N, 3) -> the segments (M, 2, 3) between neighbours."""
    return np.stack([points[..., :-1, :], points[..., 1:, :]], -2).reshape(-1, 2, 3)


def _breastbone(person):
    """Segments (N, 2, 3), body's frame."""
    front = person.middle - person.half_axes[1] - 6
    x = np.arange(-15, 16, 3)[:, None, None]
    low = np.where(np.abs(x) > 12, 0.76, 0.42)  # the manubrium is wider than the body below it
    t = low + np.array([[0.0], [1.0]]) * (0.86 - low)
    return np.concatenate([t * person.height, front + 20 * (t - 0.42), x + 0 * t], -1)


def _shoulder_girdle(person):
    """Segments (N, 2, 3) and radii (N,) of shoulder blades (plate, thick outer border, ridge) and collarbones, body's frame."""
    share = np.linspace(0, 1, 48)[:, None]  # from the blade's top to its tip
    t = 0.96 - 0.36 * share
    inner, outer = -1.42 + 0.25 * share, -0.42 - 0.5 * share
    angle = inner + (outer - inner) * np.linspace(0, 1, 12)
    a, b = person.half_axes
    y, x = _outside_wall((a, b), person.middle, t + 0 * angle, angle, 21.0)
    plate = np.stack([t * person.height + 0 * y, y, np.maximum(x, 30)], -1)
    behind, beside = _outside_wall((a, b), person.middle, t[8] + 0 * angle[8], angle[8], 33.0)
    ridge = np.stack([t[8] * person.height + 12 * np.linspace(0, 1, 12), behind, np.maximum(beside, 30)], -1)
    collar = np.array([(0.90, -0.85, 0.12), (0.94, -0.80, 0.45), (1.0, -0.45, 0.85), (1.05, -0.2, 1.05)])
    collar = collar * (person.height, b, a) + (0, person.middle, 0)
    lines = [_segments(plate), _segments(plate[:, -1]), _segments(ridge), _segments(collar)]
    radii = np.repeat([1.6, 4.0, 3.0, 5.0], [len(part) for part in lines])
    one = np.concatenate(lines)
    return np.concatenate([one, one * (1, 1, -1)]), np.tile(radii, 2)


def _paint_spine(hu, grid, person, rng):
    """Vertebral bodies with discs between them, arch, canal and spinous processes: an outline in the plane, extruded."""
    y0, x0 = person.spine
    at = person.pose.to_scanner((0, y0 + 15, x0))
    where, (z, y, x) = grid.box(at - (1e3, 44, 44), at + (1e3, 44, 44))
    y, x = person.pose.to_body(y, x)
    part, h = hu[where], grid.voxel
    phase = (z / VERTEBRA + rng.random()) % 1
    disc = np.clip((4.0 - np.abs(phase - 0.5) * VERTEBRA) / h + 0.5, 0, 1)
    body = np.sqrt(((x - x0) / 16) ** 2 + ((y - y0) / 13) ** 2) * 14 - 14
    canal = np.hypot(x - x0, y - y0 - 21) - 8
    arch = np.maximum(np.hypot((x - x0) / 1.15, y - y0 - 20) - 15, -canal)
    process = np.maximum(np.abs(x - x0) - 3.5, np.abs(y - y0 - 36) - 10)
    transverse = np.maximum(np.abs(y - y0 - 22) - 4, np.abs(x - x0) - 30)
    behind = np.minimum(np.minimum(arch, process), transverse)
    behind = np.maximum(behind, grid.upsample(person.skin, where) + 5)  # no bone in the skin
    lamina = np.clip(0.5 - behind / h, 0, 1) * (0.35 + 0.65 * (1 - disc))
    part += lamina * (330 - part)
    part += np.clip(0.5 - body / h, 0, 1) * ((1 - disc) * 480 + disc * 90 - part)
    part += np.clip(0.5 - (body + 1.8) / h, 0, 1) * ((1 - disc) * 165 + disc * 85 - part)
    part += np.clip(0.5 - canal / h, 0, 1) * (25 - part)
