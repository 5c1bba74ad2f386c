"""Fallbacks for the operators of mmcv's compiled extension.

Each function has the name, the arguments and the in-place outputs of its
counterpart in the extension, and runs on whatever device its tensors are on.
"""
from __future__ import annotations

# Operator -> module of this package. A table instead of imports: torchvision
# and the operators load when the first of them is asked for.
OPS: dict[str, str] = {
    name: module
    for module, names in {
        'nms': ('nms', 'softnms', 'nms_match'),
        'roi': ('roi_align_forward', 'roi_align_backward', 'roi_pool_forward',
                'roi_pool_backward'),
        'focal_loss':
        ('sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward',
         'softmax_focal_loss_forward', 'softmax_focal_loss_backward'),
        'deform_conv':
        ('deform_conv_forward', 'deform_conv_backward_input',
         'deform_conv_backward_parameters', 'modulated_deform_conv_forward',
         'modulated_deform_conv_backward'),
    }.items() for name in names
}
