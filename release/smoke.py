"""Does the hrta_ext that is installed work, every op and every command? python -P release/smoke.py cpp|torch

The argument is the backend that CPU tensors must have. `hrta doctor` compares the ops with formulas in float64; what is
here beside it only has to run, and to agree with plain torch.
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

import hrta_ext as hx

# Modules that an extra brings, and which an install without it does not have.
EXTRAS = {"scipy", "sklearn", "jinja2", "pyarrow", "safetensors"}


def check_modules() -> None:
    """Every module is in the package, every public name in its face."""
    for module in pkgutil.walk_packages(hx.__path__, "hrta_ext."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in EXTRAS:
                raise
    for name in hx.__all__:
        getattr(hx, name)


def results() -> list[torch.Tensor]:
    """Of every op that takes tensors, with its gradients."""
    torch.manual_seed(0)
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    weight, output_weight = torch.randn(40, 3, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    found = [hx.homotopy(x, 1.5), *hx.homotopy_value_and_slope(x, 0.5, "gelu"), hx.homotopy_(x.clone(), 0.5)]
    found.append(hx.HomotopyActivation(s=0.5, base="tanh")(x))
    found.append(hx.two_layer(x, weight, output_weight, 1.5))
    found += hx.two_layer_with_gradient(x, weight, output_weight, 0.5, base="relu2")
    for second in ("laplacian", "diagonal", "hessian"):
        found += hx.two_layer_jet(x, weight, output_weight, 1.5, second=second)
    found += torch.autograd.grad(sum(part.sum() for part in found), x)
    x = x.detach()
    for path in (hx.gram_path(x, weight, output_weight), hx.random_gram_path(x, 1000)):
        found += [path.lambda_min([0.5, 1.0]), *path(0.5)]
    found += [
        *hx.gram(x, weight, output_weight, 1.5, base="silu"),
        *hx.infinite_gram(x, 1.5),
        hx.random_weights(3, 5, 2)[0],
    ]
    regression = hx.KernelRegression().fit(x.numpy(), output_weight[:9].numpy())
    found.append(torch.as_tensor(regression.predict(x.numpy())))
    for loss in (None, hx.Residual(lambda u, x: u.second + 1.0)):
        net = hx.TwoLayerNet(1, 30, base="tanh", seed=0).double()
        points = torch.linspace(0.0, 1.0, 10, dtype=torch.float64)[:, None]
        target = {"y": points[:, 0] ** 2} if loss is None else {"loss": loss}
        found.append(hx.fit(net, points, **target, s=(0.5, 1.0), steps=(3, 3), lr=1e-2).loss)
    return [part.detach() for part in found]


def check_ops() -> None:
    """The installed backend and plain torch agree."""
    with hx.use_backend("torch"):
        expected = results()
    for mine, right in zip(results(), expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-6, atol=1e-6)


def check_commands(folder: Path) -> None:
    """Each command on a small table, through the script that the install has made."""
    table = folder / "table.csv"
    rows = [(i / 20.0, (i * 7 % 20) / 20.0) for i in range(20)]
    table.write_text("a,b,y\n" + "".join(f"{a},{b},{a * a - b}\n" for a, b in rows), encoding="utf-8")
    for line in (
        "--version",
        "doctor --out doctor.json",
        "demo --out demo --seeds 1 --steps 20 20 --width 50",
        "train table.csv --target y --s 0.5 1 --steps 20 20 --width 50 --out run",
        "predict run table.csv --out predictions.csv",
        "gram table.csv --target y --width 1000 --s 0:2:0.5 --out kernels",
        "reproduce --help",
        "bench --help",
    ):
        hrta = Path(sysconfig.get_path("scripts")) / "hrta"
        done = subprocess.run([hrta, *line.split()], cwd=folder, capture_output=True, text=True, timeout=600)
        if done.returncode:
            sys.exit(f"hrta {line}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def main() -> None:
    """All of it; an exception or a line on stderr where something is wrong."""
    usable, info = hx.backends(), hx.build_info()
    if usable["cpp"] != (sys.argv[1] == "cpp"):
        sys.exit(f"the backends should be those of {sys.argv[1]}, but are {usable}: {info}")
    check_modules()
    check_ops()
    with tempfile.TemporaryDirectory() as folder:
        check_commands(Path(folder))
    cuda = ", ".join(info["cuda_architectures"]) or "none"
    print(
        f"hrta_ext {info['version']}, {sys.argv[1]}, works under torch {info['torch']} and Python {info['python']}; ",
        end="",
    )
    print(f"CUDA code for {cuda}: {info['cuda_reason'] or 'usable'}")


if __name__ == "__main__":
    main()
