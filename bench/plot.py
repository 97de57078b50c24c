"""A line plot with a logarithmic y axis as SVG: a few lines instead of a dependency."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 50, 50
# Told apart by most eyes, too, that confuse red and green.
COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000"]
LABEL_HEIGHT = 16


def lines(title, x_title, y_title, first_x, series):
    """Returns an SVG. `series` is a list of name to values, all above 0, the first of each at `first_x`."""
    values = [value for points in series.values() for value in points]
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    high = high if high > low else low * 10
    last_x = first_x + max(len(points) for points in series.values()) - 1

    def x_of(x):
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - first_x) / max(1, last_x - first_x)

    def y_of(value):
        share = (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 28, title, size=15),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_title, anchor="middle"),
        f'<g transform="translate(18 {HEIGHT / 2:.0f}) rotate(-90)">{text(0, 0, y_title, anchor="middle")}</g>',
    ]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if value <= high * 1.0001:
                y = y_of(value)
                colour = "#999999" if digit == 1 else "#dddddd"
                out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{colour}" stroke-width="0.7"/>')
                out.append(text(LEFT - 6, y + 4, f"{value:g}", anchor="end"))
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if (last_x - first_x) / step <= 12)
    for x in range(first_x + (-first_x) % step, last_x + 1, step):
        out.append(f'<path d="M{x_of(x):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eeeeee"/>')
        out.append(text(x_of(x), HEIGHT - BOTTOM + 16, str(x), anchor="middle"))
    # Names stand at the ends of their lines, apart from each other.
    free = HEIGHT
    by_end = sorted(zip(series.items(), COLOURS), key=lambda entry: -y_of(entry[0][1][-1]))
    for (name, points), colour in by_end:
        path = " ".join(f"{x_of(first_x + at):.1f},{y_of(value):.1f}" for at, value in enumerate(points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        free = min(y_of(points[-1]) + 4, free - LABEL_HEIGHT)
        out.append(text(WIDTH - RIGHT + 8, free, f"{name} {points[-1]:.2g}", colour=colour))
    return "\n".join([*out, "</svg>", ""])


def text(x, y, content, anchor="start", size=12, colour="#333333"):
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {place}>{escape(content)}</text>"
