# Grounding DINO-T's own encoder, 109 million weights, taught to one of 47 million on
# prompts of LVIS's names. All layers at once: docs/design.md has a first comparison.
_base_ = '../_base_/schedule_text_adamw.py'
custom_imports = dict(imports='mmkd')
tokenizer = 'bert-base-uncased'
max_iters = 60000
_text = dict(
    type='mmkd.TextDataset',
    name=tokenizer,
    classes='mmdet.LVISV1Dataset',
    longest_prompt=80,
    max_tokens=256,
)
_loader = dict(num_workers=2, collate_fn=dict(type='mmkd.pad_tokens'))
train_dataloader = dict(
    **_loader,
    batch_size=32,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**_text, prompts=200000),
)
val_dataloader = dict(
    **_loader,
    batch_size=32,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**_text, prompts=500, seed=1),
)
val_evaluator = dict(type='mmkd.TransferMetric')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
model = dict(
    type='mmkd.MobileBertTransfer',
    student=dict(
        type='mmkd.MobileBertModel',
        name=tokenizer,
        pad_to_max=False,
        use_sub_sentence_represent=True,
        special_tokens_list=['[CLS]', '[SEP]', '.', '?'],
        structure=dict(
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intra_bottleneck_size=192,
            intermediate_size=768,
            num_feedforward_networks=4,
            embedding_size=768,
            trigram_input=False,
        ),
    ),
    teacher=dict(
        config='mmdet::grounding_dino/grounding_dino_swin-t_pretrain_obj365_goldg_cap4m.py'
    ),
    schedule='joint',
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=1000),
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=1.0,
        begin=1000,
        end=max_iters,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=max_iters, val_interval=5000)
default_hooks = dict(checkpoint=dict(interval=5000))
