"""Writes pieces.h, for lanes: polynomials on 16 or 32 intervals, where registers are tables of 16 floats, and of exp.

Each is the interpolant at Chebyshev nodes, as in polynomials.py, or tanh's the best one; the largest relative error of
all intervals is printed beside it. Run it after changing a degree:

    python csrc/math/pieces.py > csrc/math/pieces.h
"""

import mpmath as mp
from polynomials import interpolate, minimax, rounded, scaled_normal_tail, words

DEGREE = 6


def interval(number: int) -> tuple[mp.mpf, mp.mpf]:
    """That of an entry: a + 1 has the two last bits of the exponent, and the first two of the fraction, in it."""
    exponent, quarter = divmod(number, 4)
    scale = mp.mpf(2) ** ((exponent - 127) % 4)
    return scale * (4 + quarter) / 4 - 1, scale * (5 + quarter) / 4 - 1


# tanh, on 32 intervals of a + SHIFT up to a = 75/8: an eighth of an octave each, the shortest ones where it bends most.
SHIFT, TANH_DEGREE = mp.mpf(5) / 8, 4


def tanh_interval(entry: int) -> tuple[mp.mpf, mp.mpf]:
    exponent, eighth = divmod(entry, 8)
    scale = (mp.mpf(2), mp.mpf(4), mp.mpf(8) if eighth < 2 else mp.mpf(1) / 2, mp.mpf(1))[exponent]
    return scale * (8 + eighth) / 8 - SHIFT, scale * (9 + eighth) / 8 - SHIFT


def tanh_centre(low: mp.mpf, high: mp.mpf) -> mp.mpf:
    """Not far from the middle, where tanh is closest to a number of float: rounding it costs next to nothing."""
    near = [(low + high) / 2 + (high - low) * k / 1024 for k in range(-256, 257)]
    return min(near, key=lambda c: abs(rounded(mp.tanh(c), "float") - mp.tanh(c))) if low else low


def tanh_piece(low: mp.mpf, high: mp.mpf, centre: mp.mpf) -> tuple[list[mp.mpf], mp.mpf]:
    """tanh(centre + u) by powers of u, its value at the centre kept."""
    value, tiny = mp.tanh(centre), mp.mpf(10) ** -4
    chord, error = minimax(
        lambda u: (mp.tanh(centre + u) - value) / u if abs(u) > tiny**3 else 1 - value**2,
        lambda u: max(abs(u), tiny) / mp.tanh(max(centre + u, tiny)),
        low - centre,
        high - centre,
        TANH_DEGREE - 1,
    )
    return [value, *chord], error


# Phi, which changes by a factor within an interval on the left: 32 of equal width. Name, width, first, degree; half
# types make do with 2^-20.
NORMALS = [("kNormalPieces", mp.mpf(5) / 16, -13, 7), ("kHalfNormalPieces", mp.mpf(9) / 32, -13, 5)]


def row(values: list[mp.mpf]) -> str:
    """What is of no account as a number of C++'s would cost time as a denormal one."""
    return "{" + ", ".join(words([v if abs(v) > 1e-30 else mp.mpf(0) for v in values], "float")) + "}"


def print_normals() -> None:
    print("// Phi(x) near n width from first to last, entry n mod 32 of each row, in powers of x - n width")
    print("template <int kDegree>\nstruct alignas(64) NormalPieces {")
    print("  float coefficient[kDegree + 1][32];\n  float width, first, last;\n};\n")
    for name, width, first, degree in NORMALS:
        numbers = [(entry - first) % 32 + first for entry in range(32)]
        half = width / 2
        found = [interpolate(lambda u, n=n, w=width: mp.ncdf(n * w + u), -half, half, degree) for n in numbers]
        print(f"// relative error {mp.nstr(max(error for _, error in found), 2)}")
        rows = [row([coefficients[d] for coefficients, _ in found]) for d in range(degree + 1)]
        ends = words([width, (first - 0.49) * width, (first + 31.49) * width], "float")
        print(f"constexpr NormalPieces<{degree}> {name} = {{{{" + ",\n".join(rows) + "}, " + ", ".join(ends) + "};\n")


def print_tanh() -> None:
    intervals = [tanh_interval(entry) for entry in range(32)]
    centres = [tanh_centre(*interval) for interval in intervals]
    found = [tanh_piece(*interval, centre) for interval, centre in zip(intervals, centres, strict=True)]
    error = mp.nstr(max(error for _, error in found), 2)
    print("// tanh(a) in powers of a - centre; entry i for the last two bits of the exponent of a + kTanhShift and the")
    print(f"// first three of its fraction, relative error {error}")
    print(f"constexpr float kTanhShift = {mp.nstr(SHIFT, 9)}f;")
    print("constexpr float kTanhLast = 9.25f;  // float has had 1 for a while")
    print(f"alignas(64) constexpr float kTanhCentres[32] = {row(centres)};")
    rows = [row([coefficients[d] for coefficients, _ in found]) for d in range(TANH_DEGREE + 1)]
    print(f"alignas(64) constexpr float kTanhPieces[{TANH_DEGREE + 1}][32] = {{" + ",\n".join(rows) + "};\n")


HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.001")


def print_exponentials() -> None:
    coefficients, error = interpolate(lambda r: mp.exp(-r), -HALF_LN2, HALF_LN2, 6)
    print(f"// exp(-r) in powers of r, |r| <= ln(2)/2, relative error {mp.nstr(error, 2)}")
    print(f"constexpr float kExpOfMinus[7] = {row(coefficients)};\n")
    coefficients, error = minimax(lambda f: mp.mpf(2) ** f, lambda f: mp.mpf(2) ** -f, mp.mpf(0), mp.mpf(1), 5)
    print(f"// 2^f in powers of f, 0 <= f < 1, relative error {mp.nstr(error, 2)}")
    print(f"constexpr float kExp2OfFraction[6] = {row(coefficients)};\n")
    print("// 4 exp(-2 r) in powers of r, |r| <= ln(2)/4\ntemplate <typename T>\nstruct FourExpOfMinusTwice;\n")
    for type_name, degree in (("float", 6), ("double", 11)):
        coefficients, error = interpolate(lambda r: 4 * mp.exp(-2 * r), -HALF_LN2 / 2, HALF_LN2 / 2, degree)
        print(f"template <>\nstruct FourExpOfMinusTwice<{type_name}> {{  // relative error {mp.nstr(error, 2)}")
        numbers = ", ".join(words(coefficients, type_name))
        print(f"  static constexpr {type_name} coefficient[{degree + 1}] = {{{numbers}}};\n}};\n")


def main() -> None:
    intervals = [interval(number) for number in range(16)]
    centres = [(low + high) / 2 for low, high in intervals]
    print("// Written by pieces.py. Of a in [0, 15): entry i serves a + 1 in a quarter of an octave, i the last two")
    print("// bits of its exponent and the first two of its fraction.")
    print("#pragma once\n")
    print("namespace hrta {\ninline namespace HRTA_SIMD_LEVEL {\n")
    print(f"// sum_d coefficient[d] (a - centre)^d, d <= {DEGREE}.\nstruct alignas(64) Pieces {{")
    print(f"  float coefficient[{DEGREE + 1}][16];\n}};\n")
    print(f"alignas(64) constexpr float kPieceCentres[16] = {row(centres)};\n")
    found = [
        interpolate(lambda u, c=c: scaled_normal_tail(c + u), low - c, high - c, DEGREE)
        for (low, high), c in zip(intervals, centres, strict=True)
    ]
    print(f"// Phi(-a) exp(a^2/2), relative error {mp.nstr(max(error for _, error in found), 2)}")
    rows = [row([coefficients[d] for coefficients, _ in found]) for d in range(DEGREE + 1)]
    print("constexpr Pieces kNormalTailPieces = {{" + ",\n".join(rows) + "}};\n")
    print_tanh()
    print_normals()
    print_exponentials()
    print("}  // namespace HRTA_SIMD_LEVEL\n}  // namespace hrta")


if __name__ == "__main__":
    main()
