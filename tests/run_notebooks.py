"""Run notebooks one by one, each in a process of its own, with nbdev's own test_nb: one pytest item each.

    pytest tests/run_notebooks.py -k core

Not part of `make test`, where nbdev_test runs them all, in parallel."""
import subprocess, sys

import pytest
from test_notebooks import ROOT, name, notebooks

RUN = 'import sys; from pathlib import Path; from nbdev.test import test_nb; ' \
      'sys.exit(0 if test_nb(Path(sys.argv[1]), skip_flags=["slow"], basepath=sys.argv[2])[0] else 1)'


@pytest.mark.parametrize('path', notebooks(), ids=name)
def test_notebook_runs(path):
    r = subprocess.run([sys.executable, '-c', RUN, str(path), str(ROOT)], capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-4000:]
