"""Execute notebooks in place, storing outputs, honouring nbdev's `#| eval: false`.

    python .ci/execute.py nbs/00_core.ipynb nbs/benchmarks    # notebooks and folders; no arguments: every notebook

Each notebook runs in a fresh process in its own folder, with the repository root on sys.path.
A failing cell stops with its traceback and leaves the file as it was."""
import os, re, subprocess, sys, warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIP = re.compile(r'^\s*#\s*\|\s*eval\s*:\s*false', re.M)


def execute(path):
    "Run one notebook in this process and write its outputs back"
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    os.chdir(path.parent)
    sys.path.insert(0, str(ROOT))
    warnings.formatwarning = lambda message, category, *_, **__: f'{category.__name__}: {message}\n'   # a stored output names no path
    warnings.filterwarnings('ignore', category=FutureWarning, module=r'torch\.jit')
    nb, shell = read_nb(path), CaptureShell(path.parent, mpl_format='png')
    for cell in nb.cells:
        if cell.cell_type != 'code': continue
        cell.outputs, cell.execution_count = [], None
        if SKIP.search(cell.source) or not cell.source.strip(): continue
        shell.cell(cell)
        if shell.exc:
            print(f'--- failing cell of {path.name}:\n{cell.source}\n---', file=sys.stderr)
            for o in cell.outputs:
                if o.get('output_type') == 'error': print('\n'.join(o['traceback']), file=sys.stderr)
            return 1
    write_nb(nb, path)
    return 0


def found(folder):
    "The notebooks of a folder, in order, without hidden ones"
    return [p for p in sorted(folder.rglob('*.ipynb')) if not any(s[0] in '._' for s in p.relative_to(folder).parts)]


def main(names):
    given = [Path(n).resolve() for n in names] or [ROOT/'nbs']
    paths = [p for g in given for p in (found(g) if g.is_dir() else [g])]
    if not paths:
        print(f'execute: no notebook in {" ".join(names) or "nbs"}', file=sys.stderr)
        return 1
    for p in paths:
        print(f'executing {p.relative_to(ROOT)}', flush=True)
        rc = subprocess.run([sys.executable, __file__, '--one', str(p)]).returncode
        if rc: return rc
    return 0


if __name__ == '__main__':
    args = sys.argv[1:]
    sys.exit(execute(Path(args[1])) if args[:1] == ['--one'] else main(args))
