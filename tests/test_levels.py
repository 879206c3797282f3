"""Imports go down only: the rooms and their levels, held against the generated modules"""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ['core',
          'theory data models batched curvature viz',
          'optim stacked',
          'train kernel rlct awd',
          'sweep',
          'recipes',
          'study cli']
LEVEL = {room: i for i,rooms in enumerate(LEVELS) for room in rooms.split()}
# study and cli share a level in the map but the command line exists to call the study
ALLOWED = {('cli', 'study')}


def module(path): return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
def modules(): return [p for p in sorted((ROOT/'precond').rglob('*.py')) if p.name!='_modidx.py' and module(p)!='precond']
def room(name): return name.split('.')[1]


def imported(src, name, is_package=False):
    "Absolute names of the precond modules that the source of module `name` imports, wherever in it they stand"
    found = []
    package = name.split('.') if is_package else name.split('.')[:-1]
    for n in ast.walk(ast.parse(src)):
        if isinstance(n, ast.Import): found += [a.name for a in n.names if a.name.split('.')[0]=='precond']
        if isinstance(n, ast.ImportFrom):
            base = package[:len(package)-n.level+1] if n.level else []
            full = '.'.join([*base, *(n.module or '').split('.')]).strip('.')
            if full=='precond': found += [f'precond.{a.name}' for a in n.names] # from precond import X, from .. import X
            elif full.startswith('precond.'): found.append(full)
    return found


def uphill(src, name, is_package=False):
    "Imports of `name` that do not go down"
    here = room(name)
    ups = [m for m in imported(src, name, is_package)
           if m.count('.') and room(m)!=here and (here, room(m)) not in ALLOWED
           and room(m) in LEVEL and LEVEL[room(m)]>=LEVEL[here]]
    return ups + [m for m in imported(src, name, is_package)
                  if m.count('.') and room(m) not in LEVEL and not room(m).startswith('__')]


@pytest.mark.parametrize('path', modules(), ids=module)
def test_imports_go_down(path):
    name = module(path)
    assert room(name) in LEVEL, f'{name}: give the room {room(name)} a level in tests/test_levels.py and the design'
    assert uphill(path.read_text(), name, path.name=='__init__.py')==[]


def test_rooms_found(): assert module(ROOT/'precond'/'core.py') in {module(p) for p in modules()}


@pytest.mark.parametrize('src,name,is_package,ups', [
    ('from precond.train import fit', 'precond.optim', False, ['precond.train']),
    ('import precond.train', 'precond.optim', False, ['precond.train']),
    ('import precond.train.loop as t', 'precond.optim', False, ['precond.train.loop']),
    ('from precond import train', 'precond.optim', False, ['precond.train']),
    ('from .train import fit', 'precond.core', False, ['precond.train']),
    ('from . import train', 'precond.core', False, ['precond.train']),
    ('from ..train import fit', 'precond.optim.base', False, ['precond.train']),
    ('from ..train import fit', 'precond.optim', True, ['precond.train']),
    ('from .. import train', 'precond.optim.base', False, ['precond.train']),
    ('def f():\n    from ..data import load', 'precond.curvature.spectra', False, ['precond.data']),  # same level, hidden in a function
    ('from precond.attic import x', 'precond.study', False, ['precond.attic']),                       # a room without a level
    ('from ..core import Problem', 'precond.optim.base', False, []),
    ('from .operators import hessian', 'precond.curvature.spectra', False, []),
    ('from .operators import hessian', 'precond.curvature', True, []),
    ('from precond import __version__', 'precond.core', False, []),
    ('import torch, numpy as np', 'precond.core', False, []),
])
def test_planted(src, name, is_package, ups): assert uphill(src, name, is_package)==ups
