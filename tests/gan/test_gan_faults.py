"""What can be wrong with a GAN is told when it is built, or at its first step."""

import copy

import numpy as np
import pytest
import torch
from gan_toy import (
    JUDGE,
    MOBILE,
    OPTIMIZERS,
    SMALL,
    SUPER,
    batch,
    compression,
    cyclegan,
    pix2pix,
    run_config,
    saved,
)
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import METRICS, MODEL_WRAPPERS, MODELS
from mmengine.runner import load_state_dict

from mmkd import training
from mmkd.cli import build_runner
from mmkd.gan.datasets import pictures_in
from mmkd.gan.generators import MobileResnetGenerator, ResnetGenerator
from mmkd.training import train_config, use_amp

TEACHER = dict(generator=SMALL, checkpoint=None, allow_random=True)
GREY = dict(MOBILE, in_channels=1)


@MODEL_WRAPPERS.register_module(force=True)
class ToyWrapper(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    ('cfg', 'error', 'words'),
    [
        (
            pix2pix(generator=dict(SMALL, in_channels=1)),
            ValueError,
            'discriminator.in_channels must be 4, of source and target, but is 6',
        ),
        (
            compression(TEACHER, inherit=[], discriminator=dict(JUDGE, in_channels=3)),
            ValueError,
            'discriminator.in_channels must be 6',
        ),
        (
            compression(TEACHER, student=GREY),
            ValueError,
            'generator.in_channels must be 3, as of the teacher, but is 1',
        ),
        (
            compression(TEACHER, student=dict(MOBILE, num_blocks=2)),
            ValueError,
            'taps must be given where a student of 3 maps learns from a teacher of 4',
        ),
        (
            compression(
                TEACHER,
                student=dict(
                    type='mmkd.SuperMobileResnetGenerator',
                    num_blocks=3,
                    choices=[16] * 8,
                ),
            ),
            ValueError,
            'choices must be eight lists of widths',
        ),
        *(
            (
                {**pix2pix(), name: value},
                ValueError,
                f'{name} must be a number of at least 0 but is {value}',
            )
            for name in ('lambda_gan', 'lambda_recon')
            for value in (-1, float('nan'), float('inf'), None)
        ),
        (compression(TEACHER, lambda_distill=-1), ValueError, 'lambda_distill must be'),
        (cyclegan(lambda_cycle=-1), ValueError, 'lambda_cycle must be a number'),
        *(
            (
                pix2pix(generator=dict(SMALL, **{name: 0})),
                ValueError,
                f'{name} must be a positive whole number but is 0',
            )
            for name in ('in_channels', 'out_channels', 'num_blocks', 'ngf')
        ),
        (pix2pix(generator=dict(SMALL, num_blocks=3.0)), ValueError, 'whole number'),
        (pix2pix(generator=dict(SUPER, ngf=0)), ValueError, 'ngf must be a positive'),
        (cyclegan(pool_size=1.5), ValueError, 'pool_size must be a whole number'),
        *(
            (
                compression(TEACHER, taps=taps),
                ValueError,
                'taps must be paths of sub-modules, one at least',
            )
            for taps in ([], {}, [3], [''], {'model.9': None})
        ),
        *(
            (
                compression(dict(config=dict(model=pix2pix()), **{key: True})),
                ValueError,
                f"teacher of a GAN must have .*'trust'.* alone but has .*{key}",
            )
            for key in ('compile', 'channels_last', 'dtype', 'device')
        ),
        (dict(JUDGE, in_channels=6, ndf=0), ValueError, 'ndf must be a positive'),
        (cyclegan(generator=SUPER), ValueError, 'generator must be of one width'),
        (compression(TEACHER, taps='model.9'), TypeError, 'taps must be a list'),
        (compression(TEACHER, inherit=None), ValueError, 'inherit must be a list'),
        (cyclegan(generator=3), TypeError, 'generator must be a config, of which'),
        (cyclegan(discriminator=3), TypeError, 'discriminator must be a config'),
    ],
)
def test_what_does_not_fit_is_told_when_it_is_built(cfg, error, words):
    with pytest.raises(error, match=words):
        MODELS.build(copy.deepcopy(cfg))


def test_without_pairs_the_judge_is_narrower():
    model = MODELS.build(compression(TEACHER, paired=False))
    assert model.discriminator.model[0].weight.shape == (64, 3, 4, 4)
    model = MODELS.build(compression(TEACHER))
    assert model.discriminator.model[0].weight.shape == (128, 6, 4, 4)


def test_a_generator_alone_is_not_trained():
    translator = MODELS.build(dict(type='mmkd.Translator', generator=SMALL))
    with pytest.raises(ValueError, match='a Translator has no discriminator'):
        build_optim_wrapper(translator, dict(OPTIMIZERS))
    with pytest.raises(TypeError, match='a generator that was trained before'):
        translator.train_step(batch(), None)


@pytest.mark.parametrize('side', [4, 10])
def test_pictures_that_a_generator_cannot_take(side):
    generator = MODELS.build(SMALL)
    with pytest.raises(ValueError, match='multiples of 4, .* and at least 8'):
        generator(torch.zeros(1, 3, side, 8))
    assert generator(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def test_a_picture_without_a_target():
    model = MODELS.build(pix2pix())
    optimizers = build_optim_wrapper(model, dict(OPTIMIZERS))
    data = batch()
    del data['inputs']['target']
    with pytest.raises(ValueError, match='must have a source and a target'):
        model.train_step(data, optimizers)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_released_files_have_statistics_and_prefixes(prefix, tmp_path):
    """Of instance normalisations that are never read, and of DataParallel."""
    state = ResnetGenerator(ngf=4, num_blocks=3).state_dict()
    theirs = {prefix + key: value for key, value in state.items()}
    theirs[f'{prefix}model.2.running_mean'] = torch.zeros(4)
    theirs[f'{prefix}model.2.num_batches_tracked'] = torch.tensor(3)
    torch.save(theirs, tmp_path / 'latest_net_G.pth')
    entry = dict(generator=SMALL, checkpoint=str(tmp_path / 'latest_net_G.pth'))
    teacher = MODELS.build(compression(entry)).teacher.model
    translator = MODELS.build(dict(type='mmkd.Translator', generator=SMALL))
    translator.load_state_dict(theirs)
    for key, value in state.items():
        assert torch.equal(teacher.state_dict()[key], value)
        assert torch.equal(translator.generator.state_dict()[key], value)


def test_released_files_without_dropout(tmp_path):
    """Of CycleGAN: what follows the dropout has the place before."""
    state = ResnetGenerator(ngf=4, num_blocks=3).state_dict()
    theirs = {k.replace('conv_block.6.', 'conv_block.5.'): v for k, v in state.items()}
    assert set(theirs) != set(state)
    torch.save(theirs, tmp_path / 'horse2zebra.pth')
    entry = dict(generator=SMALL, checkpoint=str(tmp_path / 'horse2zebra.pth'))
    teacher = MODELS.build(compression(entry)).teacher.model
    for key, value in state.items():
        assert torch.equal(teacher.state_dict()[key], value)


@pytest.mark.parametrize('load', [torch.nn.Module.load_state_dict, load_state_dict])
def test_networks_in_wrappers_are_loaded_strictly(load):
    """What is too much or too little is told as without wrappers, by both libraries."""
    model = MODELS.build(pix2pix())
    state = model.state_dict()
    for name in ('generator', 'discriminator'):
        setattr(model, name, ToyWrapper(getattr(model, name)))
    load(model, state, strict=True)
    with pytest.raises(RuntimeError, match=r'generator\.model\.99\.weight'):
        load(model, {**state, 'generator.model.99.weight': torch.ones(1)}, strict=True)
    del state['generator.model.1.weight']
    with pytest.raises(RuntimeError, match=r'issing key.*model\.1\.weight'):
        load(model, state, strict=True)


def test_one_optimizer_for_a_gan(tmp_path):
    cfg = run_config(pix2pix(), tmp_path)
    cfg['optim_wrapper'] = dict(type='OptimWrapper', optimizer=dict(type='Adam'))
    with pytest.raises(ValueError, match='a GAN needs an optimizer for the generator'):
        build_runner(Config(cfg))


def test_an_unknown_optimizer_of_one_of_the_two(tmp_path):
    cfg = run_config(pix2pix(), tmp_path)
    judge = dict(optimizer=dict(type='Adan', lr=1e-3))
    cfg['optim_wrapper'] = dict(cfg['optim_wrapper'], discriminator=judge)
    words = r"optim_wrapper\.discriminator\.optimizer\.type must be .* but is 'Adan'"
    with pytest.raises(ValueError, match=words):
        build_runner(Config(cfg))


def test_mixed_precision_is_of_both_optimizers(tmp_path, monkeypatch):
    path = tmp_path / 'config.py'
    Config(run_config(pix2pix(), tmp_path)).dump(path)
    cfg = train_config(str(path))
    assert cfg.model_wrapper_cfg.type == 'MMSeparateDistributedDataParallel'
    monkeypatch.setattr(training, 'get_device', lambda: 'cuda')
    use_amp(cfg)
    for name in ('generator', 'discriminator'):
        assert cfg.optim_wrapper[name].type == 'AmpOptimWrapper'
        assert cfg.optim_wrapper[name].loss_scale == 'dynamic'
    assert 'type' not in cfg.optim_wrapper


def test_what_accumulates_knows_the_length_of_the_training(tmp_path):
    """The last step of a training that does not divide is taken, too."""
    from mmengine.runner import Runner

    cfg = run_config(pix2pix(), tmp_path)
    cfg['train_dataloader']['dataset']['length'] = 6
    cfg['train_cfg'] = dict(by_epoch=True, max_epochs=1)
    told = dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=2)
    cfg['optim_wrapper'] = dict(OPTIMIZERS, generator=told, discriminator=told)
    cfg['experiment_name'] = tmp_path.name
    runner = Runner.from_cfg(Config(cfg))
    runner.train()
    for optimizer in runner.optim_wrapper.values():
        assert optimizer._max_counts == 3
        assert optimizer._remainder_counts == 1


def test_names_of_pictures_are_their_own(tmp_path):
    for name in ('a.jpg', 'b.PNG'):
        (tmp_path / name).touch()
    assert list(pictures_in(str(tmp_path))) == ['a', 'b']
    (tmp_path / 'a.png').touch()
    with pytest.raises(ValueError, match='a.png and a.jpg differ in their ending'):
        pictures_in(str(tmp_path))


def test_a_picture_that_is_shown_again_counts_once():
    network = torch.nn.Conv2d(3, 4, 3)
    features = dict(model=network, mean=[127.5] * 3, std=[127.5] * 3)
    generator = torch.Generator().manual_seed(0)

    def picture():
        return torch.rand(3, 16, 16, generator=generator) * 2 - 1

    samples = [
        dict(name=f's{i}', target_name=f't{i}', generated=picture(), target=picture())
        for i in range(6)
    ]
    again = [{**samples[2], **{k: samples[4][k] for k in ('target', 'target_name')}}]
    found = []
    for shown in (samples, samples + again):
        metric = METRICS.build(
            dict(type='mmkd.PictureMetrics', metric='fid', features=features)
        )
        metric.process({}, shown)
        found.append(metric.compute_metrics(metric.results)['proxy_fid'])
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_an_export_can_be_exported(tmp_path):
    from mmkd.export import export_student

    teacher = saved(pix2pix(), tmp_path)
    contents = torch.load(teacher['checkpoint'], weights_only=False)
    cfg = Config(teacher['config'])
    contents['meta'] = dict(cfg=cfg.pretty_text)
    torch.save(contents, tmp_path / 'run.pth')
    first, _ = export_student(tmp_path / 'run.pth', tmp_path / 'one.pth')
    second, _ = export_student(first, tmp_path / 'two.pth')
    one, two = (torch.load(f, weights_only=True)['state_dict'] for f in (first, second))
    assert list(one) == list(two)
    assert 'model.1.weight' in two


def test_a_mobile_student_of_another_width_is_no_fault():
    MODELS.build(compression(TEACHER, student=dict(MOBILE, ngf=6)))
    assert MobileResnetGenerator(ngf=6, num_blocks=3).taps
