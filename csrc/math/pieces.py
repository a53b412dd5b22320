"""Writes pieces.h: polynomials on 16 or 32 intervals, for machines whose registers are tables of 16 floats.

Each is the interpolant at Chebyshev nodes, as in polynomials.py; the largest relative error of all intervals is printed
beside it. Run it after changing the degree:

    python csrc/math/pieces.py > csrc/math/pieces.h
"""

import mpmath as mp
from polynomials import interpolate, scaled_normal_tail, series, words

DEGREE = 6

# name, formula (for the comment), function of a >= 0
PIECES = [
    ("kTanhPieces", "tanh(a) / a", series(lambda a: mp.tanh(a) / a, mp.mpf(1))),
    ("kTanhSlopePieces", "tanh'(a) exp(2 a)", lambda a: (1 + mp.tanh(a)) ** 2),
    ("kNormalTailPieces", "Phi(-a) exp(a^2/2)", scaled_normal_tail),
]


def interval(number: int) -> tuple[mp.mpf, mp.mpf]:
    """That of an entry: a + 1 has the two last bits of the exponent, and the first two of the fraction, in it."""
    exponent, quarter = divmod(number, 4)
    scale = mp.mpf(2) ** ((exponent - 127) % 4)
    return scale * (4 + quarter) / 4 - 1, scale * (5 + quarter) / 4 - 1


# Phi, which changes by a factor within an interval on the left: 32 of equal width.
WIDTH, FIRST, NORMAL_DEGREE = mp.mpf(5) / 16, -13, 7


def row(values: list[mp.mpf]) -> str:
    """What is of no account as a number of C++'s would cost time as a denormal one."""
    return "{" + ", ".join(words([v if abs(v) > 1e-30 else mp.mpf(0) for v in values], "float")) + "}"


def print_normal() -> None:
    numbers = [(entry - FIRST) % 32 + FIRST for entry in range(32)]
    half = WIDTH / 2
    found = [interpolate(lambda u, n=n: mp.ncdf(n * WIDTH + u), -half, half, NORMAL_DEGREE) for n in numbers]
    print("// Phi(x) near n kNormalWidth, entry n mod 32 of each row, from kNormalFirst to kNormalLast; relative error")
    print(f"// {mp.nstr(max(error for _, error in found), 2)}")
    last = FIRST + 31
    print(f"constexpr float kNormalWidth = {mp.nstr(WIDTH, 9)}f;")
    print(f"constexpr float kNormalFirst = {mp.nstr((FIRST - 0.49) * WIDTH, 9)}f;")
    print(f"constexpr float kNormalLast = {mp.nstr((last + 0.49) * WIDTH, 9)}f;")
    rows = [row([coefficients[d] for coefficients, _ in found]) for d in range(NORMAL_DEGREE + 1)]
    print(f"alignas(64) constexpr float kNormalPieces[{NORMAL_DEGREE + 1}][32] = {{" + ",\n".join(rows) + "};\n")


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
    for name, formula, function in PIECES:
        found = [
            interpolate(lambda u, c=c, function=function: function(c + u), low - c, high - c, DEGREE)
            for (low, high), c in zip(intervals, centres, strict=True)
        ]
        print(f"// {formula}, relative error {mp.nstr(max(error for _, error in found), 2)}")
        rows = [row([coefficients[d] for coefficients, _ in found]) for d in range(DEGREE + 1)]
        print(f"constexpr Pieces {name} = {{{{" + ",\n".join(rows) + "}};\n")
    print_normal()
    print("}  // namespace HRTA_SIMD_LEVEL\n}  // namespace hrta")


if __name__ == "__main__":
    main()
