from hrta_ext.bases import get_base
def homotopy(x, s=1.0, base="relu", *, order=0):
    b = get_base(base)
    return (1.0 - s) * x + s * b.value(x)
