"""Writes polynomials.h: those behind exp, log1p, the normal tail, erf, tanh, sin, cos and atan in elementary.h.

Each is the interpolant at Chebyshev nodes of a smooth function, computed with 60 digits (mpmath comes with torch) and
close to the best approximation in relative error, which is printed beside it. Run it after changing a degree:

    python csrc/math/polynomials.py > csrc/math/polynomials.h
"""

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60
ROOT2 = mp.sqrt(2)
TAIL_CENTRE = mp.mpf(2)  # of the map a -> (a - c)/(a + c); found by trial: a rounding of t costs least here


def normal_tail(t: mp.mpf) -> mp.mpf:
    """(a + c) Phi(-a) exp(a^2/2) at a = c (1 + t)/(1 - t)."""
    a = TAIL_CENTRE * (1 + t) / (1 - t)
    return (a + TAIL_CENTRE) * mp.erfc(a / ROOT2) / 2 * mp.exp(a * a / 2)


def series(f: Callable[[mp.mpf], mp.mpf], at_zero: mp.mpf) -> Callable[[mp.mpf], mp.mpf]:
    """f with its removable singularity at 0 filled in."""
    return lambda u: at_zero if abs(u) < mp.mpf(10) ** -25 else f(u)


HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.001")
QUARTER_PI_SQUARED = (mp.pi / 4) ** 2 * mp.mpf("1.001")


def tail_interval(last: float) -> tuple[mp.mpf, mp.mpf]:
    return mp.mpf(-1), (mp.mpf(last) - TAIL_CENTRE) / (mp.mpf(last) + TAIL_CENTRE)


# name, formula (for the comment), function, interval for float and double, degree for float and double (None: not
# wanted), the part of the constant term that the caller adds itself
POLYNOMIALS = [
    (
        "expm1_core",
        "(expm1(r) - r) / r^2, |r| <= ln(2)/2",
        series(lambda r: (mp.expm1(r) - r) / r**2, mp.mpf(1) / 2),
        ((-HALF_LN2, HALF_LN2),) * 2,
        (5, 10),
        0,
    ),
    (
        "log1p_core",
        "(atanh(t)/t - 1) / t^2 in u = t^2, 0 <= t <= 1/3",
        series(lambda u: (mp.atanh(mp.sqrt(u)) / mp.sqrt(u) - 1) / u, mp.mpf(1) / 3),
        ((mp.mpf(0), mp.mpf(1) / 9),) * 2,
        (4, 10),
        0,
    ),
    (
        "normal_tail_core",
        "(a + 2) Phi(-a) exp(a^2/2) - 3/4 in t = (a - 2)/(a + 2), a >= 0",
        normal_tail,
        (tail_interval(15), tail_interval(40)),
        (11, 28),
        mp.mpf(3) / 4,
    ),
    (
        "erf_core",
        "erf(x)/x - 1 in u = x^2, 0 <= x <= 3/4",
        series(lambda u: mp.erf(mp.sqrt(u)) / mp.sqrt(u), 2 / mp.sqrt(mp.pi)),
        ((mp.mpf(0), mp.mpf(9) / 16),) * 2,
        (5, 11),
        1,
    ),
    (
        "tanh_core",
        "(tanh(x)/x - 1) / x^2 in u = x^2, 0 <= x <= 3/4",
        series(lambda u: (mp.tanh(mp.sqrt(u)) / mp.sqrt(u) - 1) / u, -mp.mpf(1) / 3),
        ((mp.mpf(0), mp.mpf(9) / 16),) * 2,
        (6, 13),
        0,
    ),
    (
        "sin_core",
        "(sin(r)/r - 1) / r^2 in u = r^2, |r| <= pi/4",
        series(lambda u: (mp.sin(mp.sqrt(u)) / mp.sqrt(u) - 1) / u, -mp.mpf(1) / 6),
        ((mp.mpf(0), QUARTER_PI_SQUARED),) * 2,
        (3, 6),
        0,
    ),
    (
        "cos_core",
        "(cos(r) - 1 + r^2/2) / r^4 in u = r^2, |r| <= pi/4",
        series(lambda u: (mp.cos(mp.sqrt(u)) - 1 + u / 2) / u**2, mp.mpf(1) / 24),
        ((mp.mpf(0), QUARTER_PI_SQUARED),) * 2,
        (2, 5),
        0,
    ),
    (
        "atan_core",
        "(atan(t)/t - 1) / t^2 in u = t^2, 0 <= t <= tan(pi/8)",
        series(lambda u: (mp.atan(mp.sqrt(u)) / mp.sqrt(u) - 1) / u, -mp.mpf(1) / 3),
        ((mp.mpf(0), (ROOT2 - 1) ** 2 * mp.mpf("1.001")),) * 2,
        (None, 11),
        0,
    ),
]


def interpolate(f: Callable[[mp.mpf], mp.mpf], a: mp.mpf, b: mp.mpf, degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients, lowest first, and the largest relative error on 400 points."""
    count = degree + 1
    nodes = [(a + b) / 2 + (b - a) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count)]
    matrix = mp.matrix(count, count)
    for i, x in enumerate(nodes):
        for j in range(count):
            matrix[i, j] = x**j
    coefficients = list(mp.lu_solve(matrix, mp.matrix([f(x) for x in nodes])))
    grid = [a + (b - a) * k / 400 for k in range(401)]
    error = max(abs(mp.polyval(coefficients[::-1], x) / f(x) - 1) for x in grid)
    return coefficients, error


def horner(words: list[str], variable: str) -> str:
    """The polynomial as nested multiply_add. Even and odd powers side by side have half the latency of one chain."""
    term = words[-1]
    for word in reversed(words[:-1]):
        term = f"multiply_add({term}, {variable}, {word})"
    return term


def main() -> None:
    print("// Written by polynomials.py; the relative error of each before rounding stands beside it.")
    print("#pragma once\n")
    print('#include "math/host_device.h"\n')
    print("namespace hrta {\ninline namespace HRTA_SIMD_LEVEL {\n")
    for name, formula, function, intervals, degrees, apart in POLYNOMIALS:
        print(f"// {formula}")
        for type_name, interval, degree in zip(("float", "double"), intervals, degrees, strict=True):
            if degree is None:
                continue
            coefficients, error = interpolate(function, *interval, degree)
            coefficients[0] -= apart
            suffix, digits = ("f", 9) if type_name == "float" else ("", 17)
            words = [mp.nstr(c, digits, min_fixed=0, max_fixed=0) + suffix for c in coefficients]
            print(f"// {type_name}: degree {degree}, relative error {mp.nstr(error, 2)}")
            print(f"HRTA_INLINE {type_name} {name}({type_name} u) {{")
            if name == "normal_tail_core":  # the longest: one chain rounds less
                print(f"  return {horner(words, 'u')};\n}}")
            else:
                print(f"  {type_name} square = u * u;")
                print(
                    f"  return multiply_add({horner(words[1::2], 'square')}, u, {horner(words[0::2], 'square')});\n}}"
                )
        print()
    print("}  // namespace HRTA_SIMD_LEVEL\n}  // namespace hrta")


if __name__ == "__main__":
    main()
