"""A user of stock OpenMMLab who has an exported pair of files and no mmkd.

Arguments: ``det`` or ``seg``, config, weights, picture, where to save. The compiled
operators that stock packages import exist in full mmcv only; the one that is called is
supplied here from torchvision, in place of an installation of it.
"""

import importlib.machinery
import sys
import types

import torch
from torchvision.ops import nms


def pretend_full_mmcv() -> None:
    ext = types.ModuleType('mmcv._ext')
    ext.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', None)
    ext.nms = lambda boxes, scores, iou_threshold, offset: nms(
        boxes, scores, iou_threshold
    )

    def absent(name: str) -> None:
        if name.startswith('__'):
            raise AttributeError(name)

    ext.__getattr__ = absent
    sys.modules['mmcv._ext'] = ext


def detect(config: str, weights: str, picture: str) -> tuple[torch.nn.Module, dict]:
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    model = init_detector(config, weights, device='cpu')
    result = inference_detector(model, picture).pred_instances
    inferencer = DetInferencer(config, weights, device='cpu', show_progress=False)
    (told,) = inferencer(picture)['predictions']
    # Without a config it is the text inside the weights that counts.
    alone = DetInferencer(weights=weights, device='cpu', show_progress=False)
    assert alone(picture)['predictions'] == [told]
    return model, dict(
        boxes=result.bboxes,
        scores=result.scores,
        labels=result.labels,
        told=torch.tensor(told['bboxes']),
    )


def segment(config: str, weights: str, picture: str) -> tuple[torch.nn.Module, dict]:
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    model = init_model(config, weights, device='cpu')
    result = inference_model(model, picture)
    inferencer = MMSegInferencer(config, weights, device='cpu')
    return model, dict(
        map=result.pred_sem_seg.data,
        logits=result.seg_logits.data,
        told=torch.from_numpy(inferencer(picture)['predictions']),
    )


def main(kind: str, config: str, weights: str, picture: str, out: str) -> None:
    contents = torch.load(weights, map_location='cpu', weights_only=True)
    torch.set_num_threads(1)
    pretend_full_mmcv()
    model, found = dict(det=detect, seg=segment)[kind](config, weights, picture)
    model.load_state_dict(contents['state_dict'], strict=True)
    found['classes'] = list(model.dataset_meta['classes'])
    found['type'] = f'{type(model).__module__}.{type(model).__name__}'
    assert 'mmkd' not in sys.modules
    torch.save(found, out)


if __name__ == '__main__':
    main(*sys.argv[1:])
