"""A user of stock OpenMMLab who has an exported pair of files and no mmkd.

Arguments: ``det`` or ``seg``, config, weights, picture, where to save. The compiled
operators that stock packages import exist in full mmcv only; two of them are supplied
here from torchvision, in place of an installation of it.
"""

import importlib.machinery
import sys
import types

import torch
from torchvision.ops import nms

ext = types.ModuleType('mmcv._ext')
ext.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', None)
ext.nms = lambda boxes, scores, iou_threshold, offset: nms(boxes, scores, iou_threshold)


def absent(name):
    if name.startswith('__'):
        raise AttributeError(name)
    return None


ext.__getattr__ = absent
sys.modules['mmcv._ext'] = ext

kind, config, weights, picture, out = sys.argv[1:]
contents = torch.load(weights, map_location='cpu', weights_only=True)
torch.set_num_threads(1)

if kind == 'det':
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    model = init_detector(config, weights, device='cpu')
    result = inference_detector(model, picture).pred_instances
    found = dict(boxes=result.bboxes, scores=result.scores, labels=result.labels)
    inferencer = DetInferencer(config, weights, device='cpu', show_progress=False)
    (told,) = inferencer(picture)['predictions']
    # Without a config it is the text inside the weights that counts.
    alone = DetInferencer(weights=weights, device='cpu', show_progress=False)
    assert alone(picture)['predictions'] == [told]
    found['told'] = torch.tensor(told['bboxes'])
else:
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    model = init_model(config, weights, device='cpu')
    result = inference_model(model, picture)
    found = dict(map=result.pred_sem_seg.data, logits=result.seg_logits.data)
    inferencer = MMSegInferencer(config, weights, device='cpu')
    found['told'] = torch.from_numpy(inferencer(picture)['predictions'])

model.load_state_dict(contents['state_dict'], strict=True)
found['classes'] = list(model.dataset_meta['classes'])
found['type'] = f'{type(model).__module__}.{type(model).__name__}'
assert 'mmkd' not in sys.modules
torch.save(found, out)
