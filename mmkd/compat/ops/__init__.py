"""Fallbacks for the operators of mmcv's compiled extension.

Each function has the name, the arguments and the in-place outputs of its
counterpart in the extension, and runs on whatever device its tensors are on.
Backward functions add to gradients that the extension accumulates, and
half-precision tensors are computed in float32.
"""

from __future__ import annotations

_MODULES = {
    'nms': 'nms softnms nms_match',
    'roi': 'roi_align_forward roi_align_backward roi_pool_forward roi_pool_backward',
    'deform_roi_pool': 'deform_roi_pool_forward deform_roi_pool_backward',
    'prroi_pool': 'prroi_pool_forward prroi_pool_backward prroi_pool_coor_backward',
    'boxes': 'bbox_overlaps border_align_forward border_align_backward',
    'focal_loss': 'sigmoid_focal_loss_forward sigmoid_focal_loss_backward '
    'softmax_focal_loss_forward softmax_focal_loss_backward',
    'deform_conv': 'deform_conv_forward deform_conv_backward_input '
    'deform_conv_backward_parameters '
    'modulated_deform_conv_forward '
    'modulated_deform_conv_backward',
    'masked_conv': 'masked_im2col_forward masked_col2im_forward',
    'carafe': 'carafe_forward carafe_backward carafe_naive_forward '
    'carafe_naive_backward',
    'ms_deform_attn': 'ms_deform_attn_forward ms_deform_attn_backward',
    'psamask': 'psamask_forward psamask_backward',
    'sync_bn': 'sync_bn_forward_mean sync_bn_forward_var '
    'sync_bn_forward_output sync_bn_backward_param '
    'sync_bn_backward_data',
    'stylegan': 'fused_bias_leakyrelu upfirdn2d',
    'info': 'get_compiler_version get_compiling_cuda_version',
}

# Operator -> module of this package. A table instead of imports: torchvision
# and the operators load when the first of them is asked for.
OPS: dict[str, str] = {
    name: module for module, names in _MODULES.items() for name in names.split()
}
