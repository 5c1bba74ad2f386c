# MMDetection's own distiller on the BCCD pair, for comparison: its LDHead with the loss
# of its own configs (the default in its signature is registered nowhere). Run from the
# root of the project: it reads the teacher's config by path.
_base_ = '../hint/gfl_mbv2-025_bccd.py'
custom_imports = dict(imports='mmkd')
model = dict(
    type='KnowledgeDistillationSingleStageDetector',
    teacher_config='configs/hint/gfl_mbv2_bccd.py',
    teacher_ckpt='work_dirs/gfl_mbv2_bccd/epoch_12.pth',
    bbox_head=dict(
        type='LDHead',
        loss_ld=dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10),
    ),
)
