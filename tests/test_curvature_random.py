"""Curvature of random small networks against dense truths made by plain PyTorch: hypothesis looks for a network that breaks it.

The Hessian of the truth is reverse over reverse: `torch.func.hessian` is wrong through LayerNorm (torch 2.14: 13 to 600 % of the
largest entry on three nets), where central differences of the gradient and of the loss side with this one."""
import os, warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import hessian as dense_hessian
from torch.func import functional_call, jacrev

from precond import curvature, kernel
from precond.core import Problem

pytestmark = pytest.mark.filterwarnings('ignore')
ACTS = dict(relu=nn.ReLU, leaky=nn.LeakyReLU, tanh=nn.Tanh, gelu=nn.GELU, softplus=nn.Softplus, none=nn.Identity)
LINEAR = {'relu', 'leaky', 'none'}
EXAMPLES = int(os.environ.get('PRECOND_EXAMPLES', 0))                              # a longer search, with new networks every time
random_nets = settings(max_examples=EXAMPLES or 25, derandomize=not EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))


class Residual(nn.Module):
    "x + f(x)"
    def __init__(self, f): super().__init__(); self.f = f
    def forward(self, x): return x+self.f(x)


@st.composite
def networks(draw, losses=('cross_entropy', 'mse', 'softmax_mse')):
    "(module, loss name, x, y, whether piecewise linear)"
    seed, n = draw(st.integers(0, 2**31-1)), draw(st.integers(1, 5))
    g, acts, layers = torch.Generator().manual_seed(seed), [], []
    def act():
        acts.append(draw(st.sampled_from(sorted(ACTS))))
        return ACTS[acts[-1]]()
    if draw(st.booleans()):                                                        # images
        c, size = draw(st.integers(1, 2)), draw(st.integers(3, 5))
        x, out = torch.randn(n, c, size, size, generator=g, dtype=torch.float64), draw(st.integers(1, 3))
        groups = draw(st.sampled_from([1, c])) if out%c==0 else 1
        layers += [nn.Conv2d(c, out, draw(st.integers(1, 3)), stride=draw(st.integers(1, 2)), padding=draw(st.integers(0, 1)),
                             bias=draw(st.booleans()), groups=groups)]
        if draw(st.booleans()): layers.append(nn.BatchNorm2d(out))
        layers += [act(), draw(st.sampled_from([nn.AdaptiveMaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Identity()])), nn.Flatten()]
        with torch.no_grad(): width = nn.Sequential(*layers).double().eval()(x).shape[1]
    else:
        width = draw(st.integers(1, 4))
        x = torch.randn(n, width, generator=g, dtype=torch.float64)
    for _ in range(draw(st.integers(0, 2))):
        new = draw(st.integers(1, 4))
        layers.append(nn.Linear(width, new, bias=draw(st.booleans())))
        kind = draw(st.sampled_from(['plain', 'norm', 'residual', 'tied']))
        if kind=='norm' and new>1: layers.append(nn.LayerNorm(new)); acts.append('norm')
        layers.append(act())
        if kind=='residual': layers.append(Residual(nn.Sequential(nn.Linear(new, new), act())))
        if kind=='tied': twice = nn.Linear(new, new); layers += [twice, act(), twice]; acts.append('tied')
        width = new
    C, loss = draw(st.integers(1, 3)), draw(st.sampled_from(losses))
    net = nn.Sequential(*layers, nn.Linear(width, C)).double().eval()
    for p in net.parameters(): p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)*.7
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.uniform_(-1, 1, generator=g); m.running_var.uniform_(.5, 2, generator=g)
    y = torch.randn(n, C, generator=g, dtype=torch.float64) if loss=='mse' else torch.randint(C, (n,), generator=g)
    return net, loss, x, y, set(acts)<=LINEAR


def flat(net):
    "Flat weights, and the outputs as a function of them, by torch.func alone"
    own, sizes = dict(net.named_parameters()), [p.numel() for p in net.parameters()]
    def f(w, x): return functional_call(net, {k:v.reshape(own[k].shape) for k,v in zip(own, w.split(sizes), strict=True)}, (x,), tie_weights=False)
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()]), f


def losses(name, z, y):
    "Per-sample losses, from their definitions"
    if name=='cross_entropy': return F.cross_entropy(z, y, reduction='none')
    target = y if y.is_floating_point() else F.one_hot(y, z.shape[1]).to(z)
    return (((z.softmax(1) if name=='softmax_mse' else z)-target)**2).mean(1)


def truth(net, loss, x, y):
    "Hessian, Gauss-Newton matrix, per-sample gradients and Jacobians, dense"
    w, f = flat(net)
    H = dense_hessian(lambda w: losses(loss, f(w, x), y).mean(), w)
    J, z = jacrev(lambda w: f(w, x))(w), f(w, x).detach()                          # (n,C,P)
    B = torch.stack([dense_hessian(lambda o, i=i: losses(loss, o[None], y[i:i+1])[0], z[i]) for i in range(len(x))])
    G = torch.einsum('scp,scd,sdq->pq', J, B, J)/len(x)
    return H, G, jacrev(lambda w: losses(loss, f(w, x), y))(w), J


def close(a, b, tol=1e-9):
    size = max(1., float(b.abs().max()) if b.numel() else 1.)
    assert a.shape==b.shape and float((a-b).abs().max() if b.numel() else 0)<=tol*size, (a, b)


@random_nets
@given(networks(), st.sampled_from(['auto', 'graph', 'jvp']), st.integers(1, 4), st.sampled_from([None, 1, 2, 3]), st.booleans())
def test_operators(made, strategy, block, chunk, cache):
    net, loss, x, y, _ = made
    H, G, g, _ = truth(net, loss, x, y)
    p = Problem(net, loss, x, y, chunk=chunk)
    kw = dict(strategy=strategy, block=block, cache=cache)
    close(curvature.hessian(p, **kw).dense(), H)
    close(curvature.ggn(p, **kw).dense(), G)
    close(curvature.second_moment(p, **kw).dense(), g.T@g/len(x))
    close(curvature.fisher(p, 'empirical', **kw).dense(), g.T@g/len(x))


@random_nets
@given(networks(losses=('cross_entropy', 'mse')))
def test_true_fisher_and_kernel(made):
    net, loss, x, y, _ = made
    _, G, _, J = truth(net, loss, x, y)
    p = Problem(net, loss, x, y)
    scale = 1 if loss=='cross_entropy' else J.shape[1]/2                           # mse: a Gaussian of unit variance, G has 2/C
    close(curvature.fisher(p, 'true').dense(), G*scale)
    rows = J.flatten(0, 1)
    close(kernel.ntk(p).reshape(len(rows), len(rows)), rows@rows.T)


@random_nets
@given(networks())
def test_traces(made):
    net, loss, x, y, linear = made
    H = truth(net, loss, x, y)[0]
    p = Problem(net, loss, x, y)
    try: t = curvature.exact_trace(p)
    except ValueError: assert not linear; return                                   # a piecewise linear one is not refused
    close(torch.tensor(t.value, dtype=torch.float64), H.trace())
    close(torch.tensor(sum(t.layers.values()), dtype=torch.float64), H.trace())


@random_nets
@given(networks(), st.integers(1, 3), st.sampled_from(['magnitude', 'largest', 'smallest']))
def test_eigen(made, k, which):
    net, loss, x, y, _ = made
    H = truth(net, loss, x, y)[0]
    assume(k<=len(H))
    lam = torch.linalg.eigvalsh(H)
    order = dict(magnitude=lam.abs(), largest=lam, smallest=-lam)[which].argsort(descending=True)[:k]
    e = curvature.eigen(curvature.hessian(Problem(net, loss, x, y)), k, which=which, progress=False)
    key = dict(magnitude=torch.abs, largest=lambda v: v, smallest=lambda v: -v)[which]
    close(key(e.values).sort()[0], key(lam[order]).sort()[0])
    close(H@e.vectors, e.vectors*e.values, 1e-8)


@random_nets
@given(networks(), st.sampled_from([None, 1, 2]))
def test_layer_factors(made, chunk):
    net, loss, x, y, _ = made
    H = truth(net, loss, x, y)[0]
    p = Problem(net, loss, x, y, chunk=chunk)
    names = [k.removesuffix('.weight') for k,v in net.named_parameters() if k.endswith('weight') and v.ndim in (2, 4)]
    for k in names:
        with warnings.catch_warnings(): f = curvature.layer_factors(p, k)
        i = curvature.indices(p, f'{k}.weight')
        close(curvature.mean_hessian(f), H[i][:, i])
