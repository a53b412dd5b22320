"""torch.compile, torch.export, fake tensors, tracing, autocast, opcheck: the formula is what they see."""

from __future__ import annotations

import io
import shutil

import pytest
import torch
from cases import BASES, DTYPES, homotopy, sigma, spread
from torch.fx.experimental.proxy_tensor import make_fx

import hrta_ext as hx
from hrta_ext.activation.formula import compose

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="Inductor compiles C++")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def backends() -> list[object]:
    """Inductor where a C++ compiler is there; the same graph without code generation everywhere."""
    return ["aot_eager", pytest.param("inductor", marks=needs_compiler)]


@pytest.mark.parametrize("compiler", backends())
def test_compiled_forward_and_backward(compiler: str) -> None:
    """Every base in one graph, with a float s and a learned one."""
    x = spread(torch.float32, 129).requires_grad_()
    s = torch.tensor(1.3, requires_grad=True)

    def f(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.stack([hx.homotopy(z, 0.5, base) + hx.homotopy(z, t, base) for base in BASES])

    compiled = torch.compile(f, fullgraph=True, backend=compiler)
    y = compiled(x, s)
    exact = torch.stack([homotopy(x.detach(), 0.5, b) + homotopy(x.detach(), 1.3, b) for b in BASES])
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)
    grad_x, grad_s = torch.autograd.grad(y.sum(), (x, s))
    exact_x = sum(homotopy(x.detach(), 0.5, b, 1) + homotopy(x.detach(), 1.3, b, 1) for b in BASES)
    exact_s = sum((sigma(x.detach(), b) - x.detach().double()).sum() for b in BASES)
    torch.testing.assert_close(grad_x.double(), exact_x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_s.double(), exact_s, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("compiler", backends())
@pytest.mark.parametrize("base", ["relu2", "gelu", "softplus"])
def test_compiled_second_order(compiler: str, base: str) -> None:
    """A Sobolev loss: the derivative inside the graph, its gradient by backward; and grad of grad in one graph."""
    x = spread(torch.float64, 33)
    x[:2] = 0.0

    def second(z: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(torch.func.grad(torch.func.grad(lambda t: hx.homotopy(t, 1.5, base))))(z)

    compiled = torch.compile(second, fullgraph=True, backend=compiler)
    torch.testing.assert_close(compiled(x), homotopy(x, 1.5, base, 2))

    def loss(z: torch.Tensor) -> torch.Tensor:
        value, derivative = hx.homotopy_value_and_slope(z, 1.5, base)
        return value.sum() + derivative.square().sum() / 2

    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend=compiler)(leaf), leaf)
    first, curve = homotopy(x, 1.5, base, 1), homotopy(x, 1.5, base, 2)
    torch.testing.assert_close(g, first + first * curve)


@pytest.mark.parametrize("compiler", backends())
@pytest.mark.parametrize("s", [1.0, torch.tensor(0.5)])
def test_compiled_gelu_far_out(compiler: str, s: float | torch.Tensor) -> None:
    """Its formula by erf has the limits of the eager kernel, of the slope too; NaN stays NaN in both."""
    x = torch.tensor([-torch.inf, -100.0, 0.0, 100.0, torch.inf, torch.nan], requires_grad=True)
    compiled = torch.compile(lambda z: hx.homotopy(z, s, "gelu"), fullgraph=True, backend=compiler)
    for y in (compiled(x), hx.homotopy(x, s, "gelu")):
        linear = 1.0 - float(s)
        true = [-linear * torch.inf if linear else 0.0, -100.0 * linear, 0.0, 100.0, torch.inf, torch.nan]
        torch.testing.assert_close(y, torch.tensor(true), equal_nan=True)
        (grad,) = torch.autograd.grad(y.sum(), x)
        slopes = torch.tensor([linear, linear, linear + 0.5 * float(s), 1.0, 1.0, torch.nan])
        torch.testing.assert_close(grad, slopes, equal_nan=True)


@needs_compiler
def test_inductor_fuses_the_activation_with_its_neighbours() -> None:
    """One kernel for scale, activation and shift: the op must not stand in the way of fusion."""
    from torch._inductor.utils import run_and_get_code

    x = torch.randn(1000)
    f = torch.compile(lambda z: hx.homotopy(z * 2.0, 0.5, "gelu") + 1.0, fullgraph=True)
    y, codes = run_and_get_code(f, x)
    assert "hrta_ext" not in "".join(codes)
    assert "".join(codes).count("async_compile.cpp") == 1
    torch.testing.assert_close(y.double(), homotopy(x * 2, 0.5, "gelu") + 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiler", backends())
def test_compiled_module_follows_s_without_recompiling(compiler: str) -> None:
    layer = hx.HomotopyActivation(0.5)
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    x = spread(torch.float32, 65)
    with torch.compiler.set_stance("default"):
        compiled(x)
    for s in (0.5, 1.0, 1.5):
        hx.set_homotopy(layer, s)
        with torch.compiler.set_stance("fail_on_recompile"):
            y = compiled(x)
        torch.testing.assert_close(y.double(), homotopy(x, s, "relu"), rtol=1e-6, atol=1e-6)


def test_compiled_in_place() -> None:
    f = torch.compile(lambda z: hx.homotopy_(z, 1.5), fullgraph=True, backend="aot_eager")
    x = spread(torch.float32, 65)
    before = x.clone()
    f(x)
    torch.testing.assert_close(x.double(), homotopy(before, 1.5, "relu"), rtol=1e-6, atol=1e-6)


def test_exported_program_holds_plain_operations_and_can_be_saved() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), hx.HomotopyActivation(0.5, "gelu"), hx.HomotopyActivation(1.5))
    x = torch.randn(4, 3)
    program = torch.export.export(net, (x,))
    assert "hrta_ext" not in program.graph_module.code
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.export.load(buffer).module()(x), net(x), rtol=1e-5, atol=1e-6)


def test_fake_tensors_keep_shape_dtype_and_layout() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 3, 4, 5, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        y = hx.homotopy(x, 0.5, "tanh")
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert y.stride() == x.stride()
    meta = hx.homotopy(torch.empty(3, 4, device="meta"), 0.5)
    assert meta.device.type == "meta"
    assert meta.shape == (3, 4)


def test_tracers_record_the_formula() -> None:
    x = torch.randn(5)
    graph = make_fx(lambda z: hx.homotopy(z, 0.5, "tanh"))(x)
    z = torch.randn(5)
    torch.testing.assert_close(graph(z), hx.homotopy(z, 0.5, "tanh"))
    traced = torch.jit.trace(lambda t: hx.homotopy(t, 0.5), x)
    torch.testing.assert_close(traced(z), hx.homotopy(z, 0.5))


def test_tensor_subclasses_go_through_torch() -> None:
    class Tagged(torch.Tensor):
        pass

    x = torch.randn(5).as_subclass(Tagged)
    y = hx.homotopy(x, 1.5, "tanh")
    assert type(y) is Tagged
    torch.testing.assert_close(y.as_subclass(torch.Tensor), hx.homotopy(x.as_subclass(torch.Tensor), 1.5, "tanh"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_x_dtype(device: torch.device, dtype: torch.dtype) -> None:
    layer = hx.HomotopyActivation(0.7, "gelu", learnable=True).to(device)
    linear = torch.nn.Linear(6, 5).to(device)
    x = torch.randn(4, 6, device=device)
    with torch.autocast(device.type, dtype):
        hidden = linear(x)
        y = layer(hidden)
    assert hidden.dtype == dtype
    assert y.dtype == dtype
    y.float().sum().backward()
    assert layer.s.grad is not None
    assert layer.s.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    devices = ["cpu", "cuda"] if hx.backends()["cuda"] else ["cpu"]
    for device in devices:
        for shape, s in (((5, 3), 0.5), ((0, 3), 0.5), ((5, 3), [0.0, 0.5, 1.5])):
            x = torch.randn(shape, device=device).to(dtype).requires_grad_()
            parameter = torch.tensor(s, dtype=torch.float64, device=device, requires_grad=True)
            for order in (0, 1):
                torch.library.opcheck(torch.ops.hrta_ext.homotopy.default, (x, parameter, 3, order))
        flipped = torch.randn(4, 6, device=device).to(dtype).t()
        torch.library.opcheck(
            torch.ops.hrta_ext.homotopy.default, (flipped, torch.tensor(0.5, dtype=torch.float64, device=device), 2, 0)
        )


def test_the_op_is_the_function_and_has_its_gradients() -> None:
    """opcheck does not look at gradient values."""
    for index, base in enumerate(BASES):
        x = (torch.randn(4, 3, dtype=torch.float64) + 0.3).requires_grad_()
        for s in (torch.tensor(1.3, dtype=torch.float64), torch.linspace(0, 2, 3, dtype=torch.float64)):
            s.requires_grad_()
            torch.testing.assert_close(
                torch.ops.hrta_ext.homotopy(x, s, index, 0), hx.homotopy(x, s, base), rtol=1e-14, atol=0
            )
            assert torch.autograd.gradcheck(lambda z, t, i=index: torch.ops.hrta_ext.homotopy(z, t, i, 0), (x, s))


def test_the_op_refuses_what_would_read_out_of_bounds() -> None:
    op, x, s = torch.ops.hrta_ext.homotopy, torch.zeros(2, 3), torch.zeros((), dtype=torch.float64)
    for arguments, message in (
        ((x, s, 8, 0), "base must be in"),
        ((x, s, 0, 3), "order must be"),
        ((x, s.float(), 0, 0), "float64"),
        ((x, torch.zeros(2, dtype=torch.float64), 0, 0), "one per feature"),
        ((x.int(), s, 0, 0), "float16, bfloat16, float32 or float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"homotopy: .*{message}"):
            op(*arguments)


def test_cuda_graph_replay_sees_a_new_s() -> None:
    if not hx.backends()["cuda"]:
        pytest.skip("needs a GPU")
    layer = hx.HomotopyActivation(0.5).cuda()
    x = torch.randn(1000, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        layer(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    hx.set_homotopy(layer, 1.5)
    graph.replay()
    torch.testing.assert_close(y.cpu().double(), homotopy(x.cpu(), 1.5, "relu"), rtol=1e-6, atol=1e-6)


def test_kernels_run_on_the_current_stream() -> None:
    """A side stream that is still busy: a launch on the default stream would read x too early."""
    if not hx.backends()["cuda"]:
        pytest.skip("needs a GPU")
    x = torch.zeros(1 << 24, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        x.fill_(-1.0)
        y = hx.homotopy(x, 1.5)
    torch.cuda.synchronize()
    assert torch.equal(y, torch.full_like(y, 0.5))


@pytest.mark.parametrize("base", BASES)
def test_the_formula_has_the_limits_of_the_base_at_one(base: str) -> None:
    """(1 - s) x is not 0 times infinity where there is no such line: what compilers see agrees with the kernels."""
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.5, -0.5], dtype=torch.float64)
    torch.testing.assert_close(compose(x, 1.0, base, 0), hx.homotopy(x, 1.0, base=base), equal_nan=True)
