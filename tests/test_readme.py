"""README.md is what .ci/readme.py makes of nbs/index.ipynb"""
import importlib.util, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def load():
    spec = importlib.util.spec_from_file_location('precond_readme', ROOT/'.ci'/'readme.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod


def test_readme_matches_index():
    r = subprocess.run([sys.executable, str(ROOT/'.ci'/'readme.py'), '--check'], capture_output=True, text=True)
    assert r.returncode==0, r.stderr


def test_readme_names_the_two_commands():
    text = (ROOT/'README.md').read_text()
    assert 'make run' in text and 'make test' in text


def test_render():
    out = [dict(output_type='stream', name='stdout', text=['3\n'])]
    nb = dict(cells=[
        dict(cell_type='markdown', source='# T\n\nsee [core](00_core.ipynb), [web](https://a.b/c), [up](../CHANGELOG.md#x), ![f](images/f.png)\n```\n[x](y)\n```'),
        dict(cell_type='code', source='#| hide\nimport x', outputs=[]),
        dict(cell_type='code', source='#| echo: false\nprint(1+2)', outputs=out),
        dict(cell_type='code', source='#| output: false\n1+2', outputs=out)])
    text, pictures = load().render(nb)
    assert '[core](nbs/00_core.ipynb)' in text and '(https://a.b/c)' in text and '(CHANGELOG.md#x)' in text
    assert '![f](nbs/images/f.png)' in text and '[x](y)' in text     # code is left alone
    assert 'import x' not in text and 'print' not in text
    assert '```text\n3\n```' in text and text.count('```text')==1 and '```python\n1+2\n```' in text
    assert pictures==[]
