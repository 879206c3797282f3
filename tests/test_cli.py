"""The command as a user meets it: whole processes, their exit status, their files, and being killed."""
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest

TINY = ['--optimizers', 'sgd,kfac', '--lenses', 'spectrum,llc', '--preset', 'quick', '--seeds', '1', '--n-train', '200', '--n-test', '100',
        '--sizes', 'samples', '50', 'ntk_samples', '20', 'llc_draws', '20', 'llc_burn_in', '5', 'llc_batch', '50', 'iters', '10']


def precond(*args, cwd=None, **kwargs):
    return subprocess.run([sys.executable, '-m', 'precond.cli', *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300, **kwargs)


def numbers(out):
    "Every stored value and array of a study, without times and dates"
    d = json.loads((Path(out)/'study.json').read_text())
    cells = {p.name:{k:v for k,v in json.loads(p.read_text()).items() if k!='provenance'} for p in (Path(out)/'cells').glob('*.json')}
    arrays = {p.name:{k:v.tobytes() for k,v in np.load(p).items()} for p in (Path(out)/'cells').glob('*.npz')}
    return d['rows'], cells, arrays


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A study that nobody interrupted"
    out = tmp_path_factory.mktemp('whole')/'study'
    r = precond('study', *TINY, '--out', out)
    assert r.returncode==0, r.stderr
    return out, r.stdout


def test_study_writes_its_report(whole):
    out, text = whole
    assert re.search(r'^test loss .*\d', text, re.M) and 'report:' in text
    page = (out/'report.html').read_text()
    assert page.count('data:image/png;base64,')>=3 and not re.search(r'(?:src|href)="https?:', page)
    assert {p.suffix for p in (out/'figures').iterdir()}=={'.png', '.pdf'}
    d = json.loads((out/'study.json').read_text())
    assert len(d['training'])==2 and len(d['lenses'])==4 and d['provenance']['versions']['torch']
    assert 'bundled' in str(d['provenance']['data'])


def test_second_run_repeats_nothing(whole):
    out, _ = whole
    before = {p:p.stat().st_mtime_ns for p in (out/'cells').iterdir()}
    assert precond('study', *TINY, '--out', out).returncode==0
    assert before=={p:p.stat().st_mtime_ns for p in (out/'cells').iterdir()}


def test_killed_study_goes_on_with_the_same_numbers(whole, tmp_path):
    out = tmp_path/'study'
    p = subprocess.Popen([sys.executable, '-m', 'precond.cli', 'study', *TINY, '--out', str(out)], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time()+120
    while len(list((out/'cells').glob('*.json')))<5 and p.poll() is None and time.time()<deadline: time.sleep(.02)
    os.kill(p.pid, signal.SIGKILL)                               # the parent only: its workers must stop by themselves
    p.wait()
    time.sleep(1.5)
    kept = {f:f.stat().st_mtime_ns for f in (out/'cells').glob('*.json')}
    assert kept and not (out/'report.html').exists()
    time.sleep(1)
    assert len(list((out/'cells').glob('*.json')))==len(kept), 'orphaned workers go on'
    r = precond('study', *TINY, '--out', out)
    assert r.returncode==0, r.stderr
    assert all(f.stat().st_mtime_ns==t for f,t in kept.items()), 'a finished cell was done again'
    assert numbers(out)==numbers(whole[0])


def corrupt(folder):
    folder.mkdir(); (folder/'mnist.npz').write_bytes(b'PK\x03\x04 not really an archive'); return folder


@pytest.mark.parametrize('args, wanted', [
    (['data', '--name', 'mnits'], 'mnits'),
    (['study', '--data', 'mnits'], '--data'),
    (['study', '--optimizers', 'sdg'], "received 'sdg'"),
    (['study', '--optimizers', 'sgd', '--lr', 'sgd=-1'], '-1'),
    (['study', '--optimizers', 'sgd', '--preset', 'quick', '--loss', 'hinge'], 'hinge'),
    (['study', '--lenses', 'llcc'], "received 'llcc'"),
    (['study', '--seeds', '0'], 'seeds'),
    (['study', '--preset', 'slow'], '--preset'),
    (['frobnicate'], 'frobnicate')])
def test_refused_in_one_line(args, wanted, tmp_path):
    r = precond(*args, cwd=tmp_path)
    assert r.returncode==2 and wanted in r.stderr and len(r.stderr.strip().splitlines())==1, r.stderr
    assert 'Traceback' not in r.stderr and not r.stdout


def test_corrupt_archive_is_named(tmp_path):
    r = precond('data', '--name', 'mnist', '--root', corrupt(tmp_path/'archives'))
    assert r.returncode==2 and 'mnist.npz' in r.stderr and len(r.stderr.strip().splitlines())==1, r.stderr


def test_unwritable_folder(tmp_path):
    (tmp_path/'file').write_text('')
    r = precond('study', *TINY, '--out', tmp_path/'file'/'study')
    assert r.returncode==2 and 'folder' in r.stderr and len(r.stderr.strip().splitlines())==1, r.stderr


@pytest.mark.parametrize('name', ['study', 'llc', 'risk', 'data', 'sweep'])
def test_help_teaches(name):
    r = precond(name, '--help')
    assert r.returncode==0 and all(k in r.stdout for k in ('--out', '--help')), r.stdout


def test_sweep(tmp_path):
    args = ['sweep', '--out', tmp_path/'s', 'risk', '--a', '0:1:lin3', '--reps', '2', '--n', '20']
    r = precond(*args)
    assert r.returncode==0 and '3 done' in r.stdout, r.stderr
    before = {p:p.stat().st_mtime_ns for p in (tmp_path/'s'/'runs').iterdir()}
    assert precond(*args).returncode==0 and before=={p:p.stat().st_mtime_ns for p in (tmp_path/'s'/'runs').iterdir()}
