"""pca_mnist against the arrays recorded from the original preprocessing (tests/golden/preproc_pca_mnist.md).

Needs the full MNIST archive (in $PRECOND_DATA or the user cache); skipped with the reason where it is not found."""
from pathlib import Path

import numpy as np
import pytest
import torch

from precond import data

GOLDEN = Path(__file__).parent/'golden'/'preproc_pca_mnist.npz'


@pytest.fixture(scope='module')
def pair():
    try: data.load('mnist', 10, 10, download=False)
    except data.MissingData as e: pytest.skip(f'no MNIST archive: {e}')
    with np.load(GOLDEN, allow_pickle=False) as z: z = dict(z)
    return data.load('pca_mnist', 200, 300, d=10, n_kernel=100, download=False), z


def test_splits(pair):
    d, z = pair
    assert d.extra['n_pool']==63130
    for ours,theirs,y in (('train', 'tr', d.y_train), ('test', 'te', d.y_test), ('kernel', 'k', d.extra['y_kernel'])):
        np.testing.assert_array_equal(d.extra[f'index_{ours}'], z[f'i_{theirs}'])
        np.testing.assert_array_equal(d.extra[f'class_{ours}'], z[f'class_{theirs}'])
        np.testing.assert_array_equal(y[:, 0], z[f'y_{theirs}'])


def test_components(pair):
    "To 1e-10 up to one sign per component, the same for the three sets"
    d, z = pair
    lam = d.extra['eigenvalues'].numpy()
    np.testing.assert_allclose(lam, z['eigvals_top'][:10], rtol=1e-10)
    np.testing.assert_allclose(d.extra['scale'], z['norm_const'], rtol=1e-10)
    ours = torch.cat([x[:20] for x in (d.x_train, d.x_test, d.extra['x_kernel'])]).numpy()
    theirs = np.concatenate([z['x_tr20'], z['x_te20'], z['x_k20']])
    error = np.abs(ours*np.sign((ours*theirs).sum(0))-theirs).max()
    print(f'largest deviation from the original: {error:.1e}')
    assert error<1e-10
