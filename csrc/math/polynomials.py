"""Writes polynomials.h: those behind exp, log1p, the normal tail, erf, tanh, sin, cos and atan in elementary.h.

Each is the interpolant at Chebyshev nodes of a smooth function, computed with 60 digits (mpmath comes with torch) and
close to the best approximation in relative error, which is printed beside it; the normal tail's is the best one. Run it
after changing a degree:

    python csrc/math/polynomials.py > csrc/math/polynomials.h
"""

import struct
from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60
ROOT2 = mp.sqrt(2)


def scaled_normal_tail(a: mp.mpf) -> mp.mpf:
    """Phi(-a) exp(a^2/2)."""
    return mp.erfc(a / ROOT2) / 2 * mp.exp(a * a / 2)


def series(f: Callable[[mp.mpf], mp.mpf], at_zero: mp.mpf) -> Callable[[mp.mpf], mp.mpf]:
    """f with its removable singularity at 0 filled in."""
    return lambda u: at_zero if abs(u) < mp.mpf(10) ** -25 else f(u)


HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.001")
QUARTER_PI_SQUARED = (mp.pi / 4) ** 2 * mp.mpf("1.001")


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


def rounded(x: mp.mpf, type_name: str) -> mp.mpf:
    return mp.mpf(struct.unpack("f", struct.pack("f", x))[0] if type_name == "float" else float(x))


def minimax(
    f: Callable[[mp.mpf], mp.mpf], weight: Callable[[mp.mpf], mp.mpf], a: mp.mpf, b: mp.mpf, degree: int
) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients, lowest first, of the polynomial p with the least largest weight |p - f|, and that (Remez)."""
    count = degree + 2
    grid = [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * k / (24 * count)) for k in range(24 * count + 1)]
    nodes = grid[:: 24 * count // (count - 1)][:count]
    targets, weights = [f(x) for x in grid], [weight(x) for x in grid]
    for _ in range(8):
        matrix, right = mp.matrix(count, count), mp.matrix(count, 1)
        for i, x in enumerate(nodes):
            for j in range(degree + 1):
                matrix[i, j] = x**j
            matrix[i, degree + 1], right[i] = (-1) ** i / weight(x), f(x)
        coefficients = list(mp.lu_solve(matrix, right))[: degree + 1]
        errors = [(mp.polyval(coefficients[::-1], x) - y) * w for x, y, w in zip(grid, targets, weights, strict=True)]
        extremes: list[int] = []  # one of every run of errors of one sign
        for i, error in enumerate(errors):
            if not extremes or (error > 0) != (errors[extremes[-1]] > 0):
                extremes.append(i)
            elif abs(error) > abs(errors[extremes[-1]]):
                extremes[-1] = i
        while len(extremes) > count:
            extremes.pop(0 if abs(errors[extremes[0]]) < abs(errors[extremes[-1]]) else -1)
        if len(extremes) < count:
            break
        nodes = [grid[i] for i in extremes]
    return coefficients, max(map(abs, errors))


# Of float and double: the largest a, the map's pole -c, the a at which the polynomial starts, its degree. The last
# three by trial: roundings cost least there, and `one_plus` meets 1 to a hundredth of an ulp.
NORMAL_TAILS = {"float": (14.5, 2.5, 1.843, 8), "double": (40, 4, 1.745, 21)}


def normal_tail(type_name: str) -> tuple[list[mp.mpf], list[mp.mpf], mp.mpf]:
    """The map's three constants, exact numbers of the type; the coefficients and their relative error."""
    last, pole, start, degree = NORMAL_TAILS[type_name]
    slope = rounded(1 / (scaled_normal_tail(mp.mpf(start)) * (start + mp.mpf(pole))), type_name)
    offset = rounded(pole * slope, type_name)
    centre = rounded(start / (offset + slope * start), type_name)

    def one_plus(u: mp.mpf) -> mp.mpf:
        a = offset * (u + centre) / (1 - slope * (u + centre))
        return scaled_normal_tail(a) * (offset + slope * a)

    tiny = mp.mpf(10) ** -3
    coefficients, error = minimax(
        lambda u: (one_plus(u or tiny**5) - 1) / (u or tiny**5),
        lambda u: max(abs(u), tiny) / one_plus(u),
        -centre,
        last / (offset + slope * last) - centre,
        degree,
    )
    return [offset, slope, centre], coefficients, error


def horner(words: list[str], variable: str) -> str:
    """The polynomial as nested multiply_add. Even and odd powers side by side have half the latency of one chain."""
    term = words[-1]
    for word in reversed(words[:-1]):
        term = f"multiply_add({term}, {variable}, {word})"
    return term


def words(coefficients: list[mp.mpf], type_name: str) -> list[str]:
    digits, suffix = (9, "f") if type_name == "float" else (17, "")
    return [mp.nstr(c, digits, min_fixed=0, max_fixed=0) + suffix for c in coefficients]


def print_polynomial(name: str, cases: list[tuple[str, list[mp.mpf], mp.mpf]]) -> None:
    for type_name, coefficients, error in cases:
        print(f"// {type_name}: degree {len(coefficients) - 1}, relative error {mp.nstr(error, 2)}")
    if len(cases) == 1:
        ((type_name, coefficients, _),) = cases
        of = words(coefficients, type_name)
        print(f"HRTA_INLINE {type_name} {name}({type_name} u) {{\n  const {type_name} square = u * u;")
        print(f"  return multiply_add({horner(of[1::2], 'square')}, u, {horner(of[0::2], 'square')});\n}}\n")
        return
    print(f"template <typename V>\nHRTA_INLINE V {name}(V u) {{\n  const V square = u * u;")
    for head, (type_name, coefficients, _) in zip(
        ("if constexpr (sizeof(Scalar<V>) == 4)", "} else"), cases, strict=True
    ):
        of = [f"V({word})" for word in words(coefficients, type_name)]
        print(f"  {head} {{")
        print(f"    return multiply_add({horner(of[1::2], 'square')}, u, {horner(of[0::2], 'square')});")
    print("  }\n}\n")


def main() -> None:
    print("// Written by polynomials.py; the relative error of each before rounding stands beside it.")
    print("#pragma once\n")
    print('#include "math/host_device.h"\n')
    print("namespace hrta {\ninline namespace HRTA_SIMD_LEVEL {\n")
    for name, formula, function, intervals, degrees, apart in POLYNOMIALS:
        print(f"// {formula}")
        cases = []
        for type_name, interval, degree in zip(("float", "double"), intervals, degrees, strict=True):
            if degree is None:
                continue
            coefficients, error = interpolate(function, *interval, degree)
            coefficients[0] -= apart
            cases.append((type_name, coefficients, error))
        print_polynomial(name, cases)
    print("// Phi(-a) exp(a^2/2) = (1 + u normal_tail_core(u)) / d, u = a/d - kCentre, d = kOffset + kSlope a, a >= 0")
    print("template <typename T>\nstruct NormalTailMap;\n")
    tails = {name: normal_tail(name) for name in NORMAL_TAILS}
    for type_name, (constants, _, _) in tails.items():
        offset, slope, centre = words(constants, type_name)
        print(f"template <>\nstruct NormalTailMap<{type_name}> {{")
        print(f"  static constexpr {type_name} kOffset = {offset}, kSlope = {slope}, kCentre = {centre};\n}};\n")
    print_polynomial("normal_tail_core", [(name, *tail[1:]) for name, tail in tails.items()])
    print("}  // namespace HRTA_SIMD_LEVEL\n}  // namespace hrta")


if __name__ == "__main__":
    main()
