"""The notebooks as sources: one item each for what nbdev_test does not look at.

`make test` runs every notebook's cells through nbdev_test just before this, so that the items here do not run them
again. `pytest tests/run_notebooks.py` does, each in a process of its own, with nbdev's own test_nb."""
import ast, builtins, json, re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
NARRATED = 'tutorials', 'experiments', 'benchmarks'  # folders whose notebooks export nothing
MAX_BYTES = 1_500_000
STAR = __import__('fastcore.test', fromlist=['*']).__dict__ # the one star import in use
DIRECTIVE = re.compile(r'^\s*#\s*\|\s*([\w-]+)', re.M)
MAGIC = re.compile(r'^\s*(?:%%?|!)[a-z]', re.M)


def notebooks():
    "What nbdev tests: every notebook under nbs/, without hidden ones"
    from nbdev.config import get_config
    from nbdev.doclinks import nbglob
    get_config(path=ROOT)
    return sorted(Path(p) for p in nbglob(NBS, as_path=True))


def name(path): return path.relative_to(NBS).with_suffix('').as_posix()
def source(cell): return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])
def folder(path): return path.relative_to(NBS).parts[0]


@pytest.fixture(params=notebooks(), ids=name)
def nb(request):
    path = request.param
    d = json.loads(path.read_text(encoding='utf-8'))
    d['path'], d['code'] = path, [c for c in d['cells'] if c['cell_type']=='code' and source(c).strip()]
    return d


def exports(nb): return any(re.search(r'^\s*#\|\s*default_exp', source(c), re.M) for c in nb['code'])


def bound(tree):
    "Names that a piece of code defines at any depth"
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef|ast.AsyncFunctionDef|ast.ClassDef)}
    names |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)} | {n.name for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)}
    return names | {(a.asname or a.name).split('.')[0] for n in ast.walk(tree) if isinstance(n, ast.Import|ast.ImportFrom) for a in n.names}


def unready(cells):
    """Cells that the docs would run without what they need. For notebooks with exports, nbdev runs the exported cells
    and every cell with an import in it, and no other: such a cell may use only what those define"""
    known, found = set(dir(builtins)), []
    for c in cells:
        tree = ast.parse(source(c))
        flags = set(DIRECTIVE.findall(source(c)))
        exported = flags & {'export', 'exports', 'exporti'}
        imports = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import|ast.ImportFrom) for a in n.names]
        if 'eval' in flags or not (exported or imports): continue
        if '*' in imports: known |= set(STAR)
        known |= bound(tree)
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        if not exported and used-known: found.append(f"{source(c)[:50]!r} uses {', '.join(sorted(used-known))}")
    return found


def test_some_were_found():
    found = {name(p) for p in notebooks()}
    assert {'index', '00_core'} <= found
    assert found=={p.relative_to(NBS).with_suffix('').as_posix() for p in NBS.rglob('*.ipynb')
                   if not any(s[0] in '._' for s in p.relative_to(NBS).parts)}
    assert not list(NBS.rglob('.notest')), 'a .notest file silently skips its folder'


def test_notebook(nb):
    path, code = nb['path'], nb['code']
    first = source(nb['cells'][0])
    assert first.startswith('# '), 'the first cell is the title'
    subtitle = [s for s in first.split('\n') if s.startswith('>')]
    assert subtitle, 'a > line under the title says what the notebook is'
    assert not re.search(r'[$\\]', subtitle[0]), 'no LaTeX in the > line: it becomes a Python string'
    assert path.stat().st_size<=MAX_BYTES, f'{path.stat().st_size} bytes: keep outputs small'
    errors = [o.get('ename') for c in code for o in c.get('outputs', []) if o.get('output_type')=='error']
    assert not errors, f'stored errors: {errors}'
    magics = [source(c).split('\n')[0] for c in code if MAGIC.search(re.sub(r'("""|\'\'\').*?\1', '', source(c), flags=re.S))]
    assert not magics, f'magics: {magics}'
    if exports(nb):
        assert not unready(code), f'imports in cells of their own (the docs run this cell, but not what it needs): {unready(code)}'
    if folder(path) in NARRATED:
        assert not exports(nb), 'narrated notebooks export nothing'
        assert any(c.get('outputs') for c in code), 'no stored output: run .ci/execute.py'
    if folder(path)=='experiments':
        assert any('image/png' in o.get('data', {}) or 'image/svg+xml' in o.get('data', {})
                   for c in code for o in c.get('outputs', [])), 'an experiment has a figure'


def test_unready():
    cells = [dict(source=s) for s in ('#| export\nimport numpy as np', 'x = 1', 'import os; y = np.ones(3)', 'import os; z = x')]
    assert unready(cells)==["'import os; z = x' uses x"]


def test_docstrings_have_no_latex():
    "nbdev copies the > line and docments into Python: a backslash or a dollar there breaks silently"
    bad = []
    for p in sorted((ROOT/'precond').rglob('*.py')):
        for n in ast.walk(ast.parse(p.read_text())):
            if isinstance(n, ast.Module|ast.FunctionDef|ast.ClassDef):
                doc = (ast.get_docstring(n, clean=False) or '').split('\n')[0]
                if re.search(r'\$|\\[a-zA-Z]', doc) or any(ord(c)<32 and c!='\t' for c in doc): bad.append(f'{p.name}: {doc!r}')
    assert not bad, bad
