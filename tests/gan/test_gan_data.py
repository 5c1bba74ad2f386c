"""Pictures for GANs: pairs in one file, in two folders, and none."""

import cv2
import numpy as np
import pytest
import torch
from gan_toy import OPTIMIZERS
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, TRANSFORMS

import mmkd
from mmkd.cli import _is_ours
from mmkd.gan.transforms import read


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., ::-1])


def picture(number, width=12, height=8):
    generator = np.random.default_rng(number)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(array):
    return torch.from_numpy(array).permute(2, 0, 1)


def pairs(root, count=3, **told):
    for i in range(count):
        write(root / 'pairs' / f'{i:03d}.png', picture(i, 24))
    cfg = dict(type='mmkd.PairedPictures', data_root=str(root), folder='pairs')
    return DATASETS.build({**cfg, **told})


def two_folders(folder, kind, sizes=(3, 3), **told):
    for side, count in zip(('a', 'b'), sizes):
        for i in range(count):
            write(folder / side / f'{i}.png', picture(100 * (side == 'b') + i))
    return DATASETS.build(
        dict(
            type=kind,
            data_root=str(folder),
            source_folder='a',
            target_folder='b',
            **told,
        )
    )


@pytest.mark.parametrize('source', ['left', 'right'])
def test_halves_of_a_file(source, tmp_path):
    dataset = pairs(tmp_path, source=source)
    assert len(dataset) == 3
    for i in range(3):
        sample = dataset[i]
        whole = tensor(picture(i, 24))
        halves = dict(left=whole[..., :12], right=whole[..., 12:])
        assert torch.equal(sample['inputs']['source'], halves.pop(source))
        assert torch.equal(sample['inputs']['target'], *halves.values())
        assert sample['data_samples'] == dict(name=f'{i:03d}', paired=True)


def test_files_of_two_folders(tmp_path):
    dataset = two_folders(tmp_path, 'mmkd.PairedPictures')
    for i in range(3):
        inputs = dataset[i]['inputs']
        assert torch.equal(inputs['source'], tensor(picture(i)))
        assert torch.equal(inputs['target'], tensor(picture(100 + i)))


def test_pictures_without_pairs(tmp_path):
    dataset = two_folders(tmp_path, 'mmkd.UnpairedPictures', sizes=(4, 3))
    assert len(dataset) == 4
    kinds = [tensor(picture(100 + i)) for i in range(3)]
    np.random.seed(0)
    drawn = []
    for _ in range(60):
        inputs = dataset[1]['inputs']
        assert torch.equal(inputs['source'], tensor(picture(1)))
        drawn += [
            i for i, kind in enumerate(kinds) if torch.equal(kind, inputs['target'])
        ]
    assert len(drawn) == 60
    assert set(drawn) == {0, 1, 2}
    told = two_folders(tmp_path, 'mmkd.UnpairedPictures', sizes=(4, 3), test_mode=True)
    for i in range(4):
        assert torch.equal(told[i]['inputs']['target'], kinds[i % 3])


def test_a_pair_is_changed_by_one_draw_and_others_are_not(tmp_path):
    change = TRANSFORMS.build(
        dict(
            type='mmkd.ChangePictures',
            steps=[
                dict(type='Resize', size=(16, 16)),
                dict(type='RandomCrop', size=8),
                dict(type='RandomHorizontalFlip'),
            ],
        )
    )
    x = tensor(picture(0, 20, 20))
    torch.manual_seed(0)
    same = {True: 0, False: 0}
    for paired in same:
        for _ in range(20):
            found = change(dict(source=x, target=x.clone(), paired=paired))
            assert type(found['source']) is torch.Tensor
            assert found['source'].shape == (3, 8, 8)
            same[paired] += torch.equal(found['source'], found['target'])
    assert same[True] == 20
    assert same[False] < 5


def test_grey_pictures_have_one_channel(tmp_path):
    write(tmp_path / 'a.png', picture(0))
    grey = read(str(tmp_path / 'a.png'), 1)
    expected = cv2.cvtColor(picture(0), cv2.COLOR_RGB2GRAY)
    assert grey.shape == (1, 8, 12)
    assert (grey[0].int() - torch.from_numpy(expected).int()).abs().max() <= 1


def test_sixteen_bits_become_eight(tmp_path):
    deep = np.array([[[0, 255, 256], [65535, 32768, 51]]], dtype=np.uint16)
    path = tmp_path / 'deep.png'
    assert cv2.imwrite(str(path), deep[..., ::-1])
    found = read(str(path), 3)
    assert found.dtype == torch.uint8
    assert torch.equal(found, tensor((deep >> 8).astype(np.uint8)))


@pytest.mark.parametrize('kind', ['mmkd.Pix2Pix', 'mmkd.GANCompression'])
def test_models_of_pairs_refuse_others(kind, tmp_path):
    for side in 'AB':
        for i in range(2):
            write(tmp_path / side / f'{i}.png', picture(i, 32, 32))
    dataset = DATASETS.build(
        dict(
            type='mmkd.UnpairedPictures',
            data_root=str(tmp_path),
            source_folder='A',
            target_folder='B',
        )
    )
    small = dict(type='mmkd.ResnetGenerator', ngf=4, num_blocks=3)
    teacher = dict(generator=small, checkpoint=None, allow_random=True)
    told = dict(teacher=teacher) if kind.endswith('Compression') else {}
    model = MODELS.build(dict(type=kind, generator=small, **told))
    optimizers = build_optim_wrapper(model, dict(OPTIMIZERS))
    batch = pseudo_collate([dataset[0], dataset[1]])
    with pytest.raises(ValueError, match=f'{kind[5:]} needs pairs, as mmkd.Paired'):
        model.train_step(batch, optimizers)
    if told:
        model = MODELS.build(dict(type=kind, generator=small, paired=False, **told))
        assert model.train_step(batch, build_optim_wrapper(model, dict(OPTIMIZERS)))


def test_a_batch_goes_through_a_model(tmp_path):
    dataset = pairs(tmp_path)
    data = pseudo_collate([dataset[0], dataset[2]])
    small = dict(type='mmkd.ResnetGenerator', ngf=2, num_blocks=1)
    judge = mmkd.PatchDiscriminator(6, ndf=2, num_layers=1)
    model = mmkd.Pix2Pix(small, judge).eval()
    found = model.val_step(data)
    assert [one['name'] for one in found] == ['000', '002']
    assert found[1]['generated'].shape == (3, 8, 12)
    scaled = tensor(picture(2, 24))[..., 12:].float() / 127.5 - 1
    assert torch.equal(found[1]['target'], scaled)


@pytest.mark.parametrize(
    ('told', 'error', 'sentence'),
    [
        (dict(folder='none'), FileNotFoundError, 'none. does not exist'),
        (dict(folder='empty'), FileNotFoundError, 'must have pictures, .jpg'),
        (dict(folder=None), ValueError, 'either a folder or a source_folder'),
        (dict(source='top'), ValueError, "must be 'left' or 'right' but is 'top'"),
    ],
)
def test_mistakes_are_sentences(told, error, sentence, tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(error, match=sentence):
        pairs(tmp_path, **told)


def test_pictures_that_miss_their_pair_are_named(tmp_path):
    with pytest.raises(ValueError, match='but 1 have none, such as 3'):
        two_folders(tmp_path, 'mmkd.PairedPictures', sizes=(4, 3))


def test_files_that_do_not_fit_are_named(tmp_path):
    write(tmp_path / 'odd' / '0.png', picture(0, 23))
    with pytest.raises(ValueError, match=r'0\.png must be of even width'):
        pairs(tmp_path, folder='odd')[0]
    write(tmp_path / 'ten' / '0.png', picture(0, 20, 10))
    with pytest.raises(ValueError, match=r'multiples of 4 but 0 has \(10, 10\)'):
        pairs(tmp_path, folder='ten')[0]
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / '0.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='cannot be read as a picture'):
        pairs(tmp_path, folder='broken')[0]
    (tmp_path / 'broken' / '0.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'0\.png cannot be .*: it is empty'):
        pairs(tmp_path, folder='broken')[0]


def test_pictures_of_a_pair_have_one_size(tmp_path):
    """Before a transform makes them alike, and without one that does."""
    resize = dict(type='mmkd.ChangePictures', steps=[dict(type='Resize', size=(8, 8))])
    load, pack = dict(type='mmkd.LoadPictures'), dict(type='mmkd.PackPictures')
    dataset = two_folders(
        tmp_path, 'mmkd.PairedPictures', pipeline=[load, resize, pack]
    )
    assert dataset[0]['inputs']['source'].shape == (3, 8, 8)
    write(tmp_path / 'b' / '0.png', picture(0, 16))
    with pytest.raises(ValueError, match=r'one size, but 0 has \(8, 12\) and \(8, 16'):
        dataset[0]
    made = dict(source=torch.zeros(3, 8, 8), target=torch.zeros(3, 8, 12), name='x')
    with pytest.raises(ValueError, match=r'one size, but x has \(8, 8\) and \(8, 12\)'):
        TRANSFORMS.build(pack)({**made, 'paired': True})


class Faulty(torch.utils.data.Dataset):
    """Something that is no picture, or a fault of somebody else's."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return read(self.path, 3) if self.path else int('x')


def test_a_fault_in_a_worker_is_the_users_as_without_one(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(b'no picture')
    for given, ours in ((str(path), True), (None, False)):
        loader = torch.utils.data.DataLoader(Faulty(given), num_workers=1)
        with pytest.raises(ValueError, match='Caught ValueError in') as caught:
            next(iter(loader))
        assert _is_ours(caught.value) == ours
    with pytest.raises(ValueError, match='cannot be read') as caught:
        read(str(path), 3)
    assert 'as a picture: Unsupported image file.' in str(caught.value)


def test_an_unknown_step_is_a_sentence():
    with pytest.raises(ValueError, match='torchvision.transforms.v2 but'):
        TRANSFORMS.build(dict(type='mmkd.ChangePictures', steps=[dict(type='Flop')]))
    with pytest.raises(ValueError, match='channels must be 1 or 3 but are 4'):
        TRANSFORMS.build(dict(type='mmkd.LoadPictures', channels=4))


def test_endings_are_of_any_case(tmp_path):
    for i, ending in enumerate(('png', 'PNG', 'Png', 'JPG', 'jpeg', 'webp')):
        write(tmp_path / 'some' / f'{i}.{ending}', picture(i, 24))
    (tmp_path / 'some' / '.hidden').write_bytes(b'1')
    dataset = pairs(tmp_path, folder='some')
    assert [dataset[i]['data_samples']['name'] for i in range(6)] == list('012345')


def test_pictures_are_bytes_until_the_model_scales_them(tmp_path):
    """Those from 0 to 1 would be black for it."""
    step = dict(type='ToDtype', dtype=torch.float32, scale=True)
    pipeline = [
        dict(type='mmkd.LoadPictures'),
        dict(type='mmkd.ChangePictures', steps=[step]),
        dict(type='mmkd.PackPictures'),
    ]
    with pytest.raises(ValueError, match='from 0 to 255, but 000 is of torch.float32'):
        pairs(tmp_path, pipeline=pipeline)[0]
