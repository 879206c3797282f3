"""The wheel holds every module, and each imports from it elsewhere, away from the source"""
import shutil, subprocess, sys, zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

IMPORT_ALL = '''
import importlib, pathlib, sys
target, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
for n in names:
    m = importlib.import_module(n)
    assert target in pathlib.Path(m.__file__).resolve().parents, f"{n} came from {m.__file__}"
print(len(names))
'''


def run(*args, **kw):
    r = subprocess.run([str(a) for a in args], capture_output=True, text=True, **kw)
    assert r.returncode==0, f'{args}\n{r.stdout[-3000:]}\n{r.stderr[-3000:]}'
    return r.stdout


def modules():
    return {'.'.join(p.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__') for p in (ROOT/'precond').rglob('*.py')}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "Built through the sdist, so that the sdist is complete too, from a copy: the tree stays as it is"
    tmp = tmp_path_factory.mktemp('wheel')
    keep = shutil.ignore_patterns('.git', '.venv', '_docs', '_proc', 'nbs', 'study_out', 'build', 'dist', '*.egg-info', '__pycache__', 'results')
    shutil.copytree(ROOT, tmp/'src', ignore=keep)
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', tmp/'dist', tmp/'src')
    return next((tmp/'dist').glob('*.whl'))


def test_wheel_holds_every_module(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    inside = {n.removesuffix('.py').removesuffix('/__init__').replace('/', '.') for n in names if n.endswith('.py')}
    assert inside==modules()
    meta = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith('METADATA'))).decode()
    assert 'License-Expression: Apache-2.0' in meta and 'Requires-Python: >=3.11' in meta
    assert 'Provides-Extra: dev' in meta
    assert any(n.endswith('licenses/LICENSE') for n in names)
    points = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith('entry_points.txt'))).decode()
    assert 'precond = precond.cli:main' in points and 'precond = precond._modidx:d' in points


def test_every_module_imports_elsewhere(wheel, tmp_path):
    target, elsewhere = tmp_path/'site', tmp_path/'elsewhere'
    elsewhere.mkdir()
    run(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target', target, wheel)
    names = sorted(modules())
    code = f'import sys; sys.path.insert(0, {str(target)!r})\n' + IMPORT_ALL
    assert int(run(sys.executable, '-c', code, target, *names, cwd=elsewhere))==len(names)>2
