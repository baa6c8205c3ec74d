"""Benchmarks as tables on the terminal."""

from __future__ import annotations

COLUMNS = {"images_per_second": "images/s", "frames_per_second": "frames/s", "ms": "ms"}


def table(title: str, section: dict[str, dict]) -> str:
    """A section, one line a name: rate, milliseconds, then whatever else it has."""
    columns = {key: head for key, head in COLUMNS.items() if any(key in values for values in section.values())}
    width = max(len(name) for name in [title, *section])
    lines = [f"{title:{width}}" + "".join(f"{head:>12}" for head in columns.values())]
    for name, values in section.items():
        cells = "".join(f"{_text(values[key]) if key in values else '':>12}" for key in columns)
        rest = ", ".join(f"{key.replace('_', ' ')} {_text(v)}" for key, v in values.items() if key not in columns)
        lines.append(f"{name.replace('_', ' '):{width}}{cells}   {rest}".rstrip())
    return "\n".join(lines)


def header(about: dict) -> str:
    """Machine, versions, date and overrides."""
    machine, software = about["machine"], about["versions"]
    gpu = (
        f"{machine['gpu']}, {machine['gpu_memory_gib']} GiB, driver {machine['driver']}" if machine["gpu"] else "no GPU"
    )
    named = ("python", "torch", "cuda", "triton", "gsplat", "numba")
    return "\n".join(
        [
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {gpu}",
            ", ".join(f"{name} {software[name]}" for name in named if software.get(name)),
            f"{about['date']}; {' '.join(about['overrides']) or 'no overrides'}",
            f"{about['rasterizer']} on {about['device']}, {about['gaussians']} Gaussians at first, "
            f"{about['batch']['frames']} frames x {about['batch']['views']} views a step",
        ]
    )


def _text(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
